//! Which backups of a collection a retention policy keeps, and why: a pure function of the policy, the time and what is
//! known of each backup. Carrying it out is [`super::prune`]'s part.
//!
//! A backup is kept where any rule keeps it, and deleted only where none does. The rules lean one way: whatever is
//! doubtful keeps more.
//! - A backup whose time lies in the future (a clock was wrong) is kept, and takes nobody's place.
//! - A backup that its last verification found damaged takes nobody's place either: those behind it move up.
//! - Whatever the policy says, the newest verified backup stays, the newest of the whole collection, and of each
//!   partition that was backed up by itself since, the newest: nothing goes that no other backup holds.
//! - So neither a clock that is behind, nor a backup from the future, nor damage found in one backup makes another go
//!   that would have stayed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::Deserialize;

use super::manifest::BackupType;
use super::names::BackupId;

/// Partitions that a reason names.
const NAMES_SHOWN: usize = 5;

/// What to keep. Each rule by itself; 0 (or no tags) switches it off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// So many of the newest.
    pub count: u64,
    /// Those that are no older than this many days.
    pub days: u64,
    /// So many of the newest, whatever else is said.
    pub minimum: u64,
    /// The newest of each of so many days that have one.
    pub daily: u64,
    /// The newest of each of so many weeks (Monday to Sunday) that have one.
    pub weekly: u64,
    /// The newest of each of so many months that have one.
    pub monthly: u64,
    /// Those that carry one of these.
    pub tags: Vec<String>,
}

/// What the plan needs to know of a COMPLETED backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BackupId,
    /// When it was begun, by its writer's clock.
    pub created_at: DateTime<Utc>,
    /// What it holds.
    pub backup_type: BackupType,
    /// The partitions that it holds.
    pub partitions: BTreeSet<String>,
    /// The user's tags.
    pub tags: Vec<String>,
    /// The backup that it builds on.
    pub parent: Option<BackupId>,
    /// What its last verification found.
    pub health: Health,
}

/// What is known of a backup's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Its last verification found it whole.
    Verified,
    /// It was never verified.
    Unknown,
    /// Its last verification found it damaged.
    Damaged,
}

/// What is to become of a collection's backups: each is in one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Those that stay, and why: every rule that keeps it.
    pub kept: BTreeMap<BackupId, Vec<String>>,
    /// Those that go, in the order in which to delete them: what builds on another before it, else oldest first.
    pub delete: Vec<BackupId>,
}

/// The plan for the backups of one collection.
#[must_use]
pub fn plan(policy: &Policy, now: DateTime<Utc>, candidates: &[Candidate]) -> Plan {
    let mut newest_first: Vec<_> = candidates.iter().collect();
    newest_first.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    let (future, past): (Vec<_>, Vec<_>) = newest_first.iter().partition(|candidate| candidate.created_at > now);

    let mut reasons = Reasons::default();
    for candidate in future {
        reasons.give(candidate, "its time lies in the future".to_owned());
    }
    keep_first(&mut reasons, &past, policy.minimum, |n| format!("one of the {n} newest, which always stay"));
    keep_first(&mut reasons, &past, policy.count, |n| format!("one of the {n} newest"));
    for candidate in &past {
        if policy.days > 0 && now - candidate.created_at <= days(policy.days) {
            reasons.give(candidate, format!("not older than {} days", policy.days));
        }
        if let Some(tag) = policy.tags.iter().find(|tag| candidate.tags.contains(tag)) {
            reasons.give(candidate, format!("tagged {tag:?}"));
        }
    }
    keep_one_of_each(&mut reasons, &past, policy.daily, |time| time.format("the day %Y-%m-%d").to_string());
    keep_one_of_each(&mut reasons, &past, policy.weekly, |time| {
        let week = time.iso_week();
        format!("the week {}-W{:02}", week.year(), week.week())
    });
    keep_one_of_each(&mut reasons, &past, policy.monthly, |time| time.format("the month %Y-%m").to_string());
    keep_verified(&mut reasons, &past);
    keep_each_part(&mut reasons, &past);
    keep_parents(&mut reasons, &newest_first);

    let kept = reasons.0;
    let mut delete: Vec<_> = newest_first.into_iter().rev().filter(|each| !kept.contains_key(&each.id)).collect();
    let depths = depths(candidates);
    delete.sort_by_key(|each| std::cmp::Reverse(depths.get(&each.id).copied().unwrap_or(0)));
    Plan { kept, delete: delete.into_iter().map(|each| each.id.clone()).collect() }
}

#[derive(Default)]
struct Reasons(BTreeMap<BackupId, Vec<String>>);

impl Reasons {
    fn give(&mut self, candidate: &Candidate, reason: String) {
        self.0.entry(candidate.id.clone()).or_default().push(reason);
    }
}

/// More days than any backup is old are as good as for ever.
fn days(count: u64) -> TimeDelta {
    i64::try_from(count).ok().and_then(TimeDelta::try_days).unwrap_or(TimeDelta::MAX)
}

/// The first `count` that are not known to be damaged, and the damaged ones among them.
fn keep_first(reasons: &mut Reasons, newest_first: &[&Candidate], count: u64, why: impl Fn(u64) -> String) {
    let mut sound = 0;
    for candidate in newest_first {
        if sound == count {
            return;
        }
        reasons.give(candidate, why(count));
        sound += u64::from(candidate.health != Health::Damaged);
    }
}

/// The newest of each of the first `count` periods, damaged ones passed over.
fn keep_one_of_each(
    reasons: &mut Reasons,
    newest_first: &[&Candidate],
    count: u64,
    period: impl Fn(DateTime<Utc>) -> String,
) {
    let mut seen = BTreeSet::new();
    for candidate in newest_first.iter().filter(|each| each.health != Health::Damaged) {
        if seen.len() as u64 >= count {
            return;
        }
        let period = period(candidate.created_at);
        if seen.insert(period.clone()) {
            reasons.give(candidate, format!("the newest of {period}"));
        }
    }
}

/// The newest that was found whole; and where that does not hold the whole collection, the newest that does as well.
fn keep_verified(reasons: &mut Reasons, newest_first: &[&Candidate]) {
    let verified = || newest_first.iter().filter(|each| each.health == Health::Verified);
    let newest = verified().next();
    let newest_full = verified().find(|each| each.backup_type == BackupType::FullCollection);
    if let Some(candidate) = newest {
        reasons.give(candidate, "the newest that is verified".to_owned());
    }
    if let Some(candidate) = newest_full.filter(|full| newest.is_some_and(|newest| newest.id != full.id)) {
        reasons.give(candidate, "the newest of the whole collection that is verified".to_owned());
    }
}

/// The newest of the whole collection that is not known to be damaged, verified or not; and of what was backed up since
/// by its partitions, the newest of each. What is older the whole one covers: it holds every partition, but for those
/// that had been dropped.
fn keep_each_part(reasons: &mut Reasons, newest_first: &[&Candidate]) {
    let mut covered = BTreeSet::new();
    for candidate in newest_first.iter().filter(|each| each.health != Health::Damaged) {
        if candidate.backup_type == BackupType::FullCollection {
            reasons.give(candidate, "the newest of the whole collection".to_owned());
            return;
        }
        let names: Vec<_> = candidate.partitions.iter().filter(|name| covered.insert(name.as_str())).collect();
        if !names.is_empty() {
            reasons.give(candidate, newest_of(&names));
        }
    }
}

fn newest_of(partitions: &[&String]) -> String {
    let shown: Vec<_> = partitions.iter().take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
    let word = if partitions.len() == 1 { "partition" } else { "partitions" };
    match partitions.len() - shown.len() {
        0 => format!("the newest of {word} {}", shown.join(", ")),
        more => format!("the newest of {word} {} and {more} more", shown.join(", ")),
    }
}

/// What a kept backup builds on is kept too, all the way down.
fn keep_parents(reasons: &mut Reasons, candidates: &[&Candidate]) {
    let by_id: BTreeMap<_, _> = candidates.iter().map(|each| (&each.id, *each)).collect();
    let mut left: Vec<BackupId> = reasons.0.keys().cloned().collect();
    while let Some(id) = left.pop() {
        let parent = by_id.get(&id).and_then(|child| child.parent.as_ref()).and_then(|parent| by_id.get(parent));
        if let Some(parent) = parent.filter(|parent| parent.id != id) {
            let was_kept = reasons.0.contains_key(&parent.id);
            let reason = format!("{id} builds on it");
            if !reasons.0.get(&parent.id).is_some_and(|given| given.contains(&reason)) {
                reasons.give(parent, reason);
            }
            if !was_kept {
                left.push(parent.id.clone());
            }
        }
    }
}

/// How many backups each one builds on. A circle, which only a forged manifest can make, counts as far as it is new.
fn depths(candidates: &[Candidate]) -> BTreeMap<BackupId, usize> {
    let parents: BTreeMap<_, _> = candidates.iter().map(|each| (&each.id, each.parent.as_ref())).collect();
    let mut depths = BTreeMap::new();
    for candidate in candidates {
        let mut path = Vec::new();
        let mut on_path = BTreeSet::new();
        let mut at = Some(&candidate.id);
        while let Some(id) = at.filter(|id| parents.contains_key(id) && !depths.contains_key(*id)) {
            if !on_path.insert(id) {
                break;
            }
            path.push(id);
            at = parents.get(id).copied().flatten();
        }
        let lowest = at.and_then(|id| depths.get(id)).map_or(0, |below: &usize| below + 1);
        for (depth, id) in (lowest..).zip(path.into_iter().rev()) {
            depths.entry(id.clone()).or_insert(depth);
        }
    }
    depths
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

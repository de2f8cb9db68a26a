//! The plan, held against the rules as a person would check them: one backup at a time, by counting the others.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-21T06:30:00Z".parse().unwrap()
}

const NOTHING: Policy = Policy { count: 0, days: 0, minimum: 0, daily: 0, weekly: 0, monthly: 0, tags: Vec::new() };

fn id(number: usize) -> BackupId {
    format!("b20200101T000000Z_{number:06x}").parse().unwrap()
}

/// A backup that is so many hours old.
fn aged(number: usize, hours: i64) -> Candidate {
    Candidate {
        id: id(number),
        created_at: now() - TimeDelta::hours(hours),
        backup_type: BackupType::FullCollection,
        partitions: BTreeSet::from(["_default".to_owned()]),
        tags: Vec::new(),
        parent: None,
        health: Health::Unknown,
    }
}

/// A backup of some partitions that is so many hours old.
fn parts(number: usize, hours: i64, names: &[&str]) -> Candidate {
    let partitions = names.iter().map(|&name| name.to_owned()).collect();
    Candidate { backup_type: BackupType::Partition, partitions, ..aged(number, hours) }
}

/// The numbers of the backups that are kept.
fn kept(policy: &Policy, candidates: &[Candidate]) -> BTreeSet<usize> {
    let plan = plan(policy, now(), candidates);
    let number = |id: &BackupId| usize::from_str_radix(&id.as_str()[18..], 16).unwrap();
    assert_eq!(plan.kept.len() + plan.delete.len(), candidates.len());
    assert!(plan.kept.values().all(|reasons| !reasons.is_empty()));
    plan.kept.keys().map(number).collect()
}

fn set(numbers: &[usize]) -> BTreeSet<usize> {
    numbers.iter().copied().collect()
}

fn each_day(count: usize) -> Vec<Candidate> {
    (0..count).map(|number| aged(number, 24 * i64::try_from(number).unwrap())).collect()
}

#[test]
fn a_backup_stays_where_count_or_days_keep_it() {
    let backups = each_day(10);
    assert_eq!(kept(&Policy { count: 3, days: 5, ..NOTHING }, &backups), set(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(kept(&Policy { count: 7, days: 5, ..NOTHING }, &backups), set(&[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(kept(&Policy { count: 2, ..NOTHING }, &backups), set(&[0, 1]));
    assert_eq!(kept(&Policy { days: u64::MAX, ..NOTHING }, &backups).len(), 10);
}

#[test]
fn the_minimum_stays_however_old_it_is() {
    let old: Vec<_> = (0..6).map(|number| aged(number, 10_000 + i64::try_from(number).unwrap())).collect();
    assert_eq!(kept(&Policy { count: 1, days: 1, minimum: 3, ..NOTHING }, &old), set(&[0, 1, 2]));
    assert_eq!(kept(&Policy { minimum: 100, ..NOTHING }, &old).len(), 6);
    assert_eq!(kept(&NOTHING, &old), set(&[0]));
}

#[test]
fn one_of_each_day_week_and_month_stays_the_newest() {
    // Two a day for 70 days: even numbers at 06:30, odd ones an hour before.
    let backups: Vec<_> =
        (0..140).map(|n| aged(n, 24 * i64::try_from(n / 2).unwrap() + i64::from(n % 2 == 1))).collect();
    assert_eq!(kept(&Policy { daily: 3, ..NOTHING }, &backups), set(&[0, 2, 4]));
    // The 21st of November 2026 is a Saturday: the Sundays before it are 6 and 13 days back.
    assert_eq!(kept(&Policy { weekly: 3, ..NOTHING }, &backups), set(&[0, 12, 26]));
    // The last days of October and September are 21 and 52 days back.
    assert_eq!(kept(&Policy { monthly: 3, ..NOTHING }, &backups), set(&[0, 42, 104]));
    assert_eq!(kept(&Policy { monthly: 99, ..NOTHING }, &backups).len(), 3);
}

#[test]
fn periods_without_a_backup_do_not_count() {
    let backups = [aged(0, 0), aged(1, 24 * 100), aged(2, 24 * 101), aged(3, 24 * 102)];
    assert_eq!(kept(&Policy { daily: 3, ..NOTHING }, &backups), set(&[0, 1, 2]));
}

#[test]
fn a_tag_keeps_for_good() {
    let mut backups = each_day(5);
    backups[4].tags = vec!["nightly".to_owned(), "audit".to_owned()];
    assert_eq!(kept(&Policy { count: 1, tags: vec!["audit".to_owned()], ..NOTHING }, &backups), set(&[0, 4]));
    assert_eq!(kept(&Policy { count: 1, tags: vec!["aud".to_owned()], ..NOTHING }, &backups), set(&[0]));
}

#[test]
fn the_newest_verified_one_always_stays_and_the_newest_whole_one() {
    let mut backups = each_day(6);
    for number in [3, 4, 5] {
        backups[number].health = Health::Verified;
    }
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0, 3]));
    backups[3].backup_type = BackupType::Partition;
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0, 3, 4]));
    assert_eq!(kept(&NOTHING, &backups), set(&[0, 3, 4]));
}

#[test]
fn the_only_backup_of_a_partition_stays() {
    // 2025 once, 2026 every night, and never the whole.
    let mut backups: Vec<_> =
        (0..40).map(|night| parts(night, 24 * i64::try_from(night).unwrap(), &["2026"])).collect();
    backups.push(parts(40, 24 * 300, &["2025"]));
    backups.push(parts(41, 24 * 301, &["2025"]));
    for health in [Health::Unknown, Health::Verified] {
        for each in &mut backups {
            each.health = health;
        }
        assert_eq!(kept(&Policy { count: 3, minimum: 2, days: 1, ..NOTHING }, &backups), set(&[0, 1, 2, 40]));
    }
    let told = plan(&NOTHING, now(), &backups).kept;
    assert_eq!(told[&id(40)], ["the newest of partition \"2025\""]);
    // Damaged, it leaves its place to the one behind it.
    backups[40].health = Health::Damaged;
    assert_eq!(kept(&NOTHING, &backups), set(&[0, 41]));
}

#[test]
fn the_newest_of_the_whole_stays_verified_or_not_and_covers_what_is_older() {
    let mut backups: Vec<_> =
        (0..40).map(|night| parts(night, 24 * i64::try_from(night).unwrap(), &["2026"])).collect();
    backups[0].health = Health::Verified;
    backups.push(parts(40, 24 * 50, &["2025"]));
    backups.push(aged(41, 24 * 100));
    backups.push(aged(42, 24 * 101));
    // Of a partition that is dropped since, or in the whole one too: nobody can tell, and need not.
    backups.push(parts(43, 24 * 200, &["2024"]));
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0, 40, 41]));
    let told = plan(&NOTHING, now(), &backups).kept;
    assert_eq!(told[&id(0)], ["the newest that is verified", "the newest of partition \"2026\""]);
    assert_eq!(told[&id(41)], ["the newest of the whole collection"]);
    backups[41].health = Health::Damaged;
    assert_eq!(kept(&NOTHING, &backups), set(&[0, 40, 42]));
    // One from the future covers nothing.
    backups.push(aged(44, -24));
    assert_eq!(kept(&NOTHING, &backups), set(&[0, 40, 42, 44]));
}

#[test]
fn a_reason_names_some_partitions() {
    let told = |names: &[&str]| plan(&NOTHING, now(), &[parts(0, 1, names)]).kept.remove(&id(0)).unwrap().concat();
    assert_eq!(told(&["a", "b"]), "the newest of partitions \"a\", \"b\"");
    let seven = told(&["a", "b", "c", "d", "e", "f", "g"]);
    assert_eq!(seven, "the newest of partitions \"a\", \"b\", \"c\", \"d\", \"e\" and 2 more");
}

#[test]
fn damaged_ones_take_nobodys_place() {
    let mut backups = each_day(6);
    backups[0].health = Health::Damaged;
    backups[2].health = Health::Damaged;
    assert_eq!(kept(&Policy { count: 2, ..NOTHING }, &backups), set(&[0, 1, 2, 3]));
    assert_eq!(kept(&Policy { minimum: 2, ..NOTHING }, &backups), set(&[0, 1, 2, 3]));
    assert_eq!(kept(&Policy { daily: 2, ..NOTHING }, &backups), set(&[1, 3]));
    assert_eq!(kept(&NOTHING, &backups), set(&[1]));
}

#[test]
fn backups_from_the_future_stay_and_push_nothing_out() {
    let mut backups = each_day(4);
    backups.extend((10..20).map(|number| aged(number, -24 * 365 * 50)));
    let kept = kept(&Policy { count: 2, minimum: 1, daily: 2, ..NOTHING }, &backups);
    assert_eq!(kept.len(), 12);
    assert!(kept.is_superset(&set(&[0, 1])));
}

#[test]
fn what_others_build_on_stays_and_goes_last() {
    let mut backups = each_day(6);
    backups[0].parent = Some(id(2));
    backups[2].parent = Some(id(4));
    backups[3].parent = Some(id(5));
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0, 2, 4]));
    let deleted = plan(&Policy { count: 1, ..NOTHING }, now(), &backups).delete;
    assert_eq!(deleted, [id(3), id(5), id(1)]);
    // Wrong clocks: the child is older than what it builds on.
    backups[5].created_at = now() - TimeDelta::hours(1);
    assert!(plan(&NOTHING, now(), &backups).delete.iter().position(|one| *one == id(5)) > Some(1));
}

#[test]
fn parents_in_a_circle_or_gone_do_no_harm() {
    let mut backups = each_day(3);
    backups[0].parent = Some(id(1));
    backups[1].parent = Some(id(0));
    backups[2].parent = Some(id(99));
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0, 1]));
    assert_eq!(kept(&NOTHING, &backups), set(&[0, 1]));
    backups[0].parent = Some(id(0));
    assert_eq!(kept(&Policy { count: 1, ..NOTHING }, &backups), set(&[0]));
}

/// The rules, one backup at a time.
mod oracle {
    use super::*;

    fn newer(a: &Candidate, b: &Candidate) -> bool {
        a.created_at > b.created_at || (a.created_at == b.created_at && a.id > b.id)
    }

    fn sound(candidate: &Candidate) -> bool {
        candidate.health != Health::Damaged
    }

    fn week(time: DateTime<Utc>) -> i64 {
        // Days since a Monday, in sevens.
        (i64::from(time.date_naive().num_days_from_ce()) - 1).div_euclid(7)
    }

    fn in_periods(one: &Candidate, past: &[&Candidate], count: u64, period: impl Fn(&Candidate) -> i64) -> bool {
        let of_period = past.iter().filter(|other| sound(other) && period(other) == period(one));
        let later: BTreeSet<_> = past
            .iter()
            .filter(|other| sound(other) && period(other) > period(one))
            .map(|other| period(other))
            .collect();
        sound(one) && of_period.into_iter().all(|other| !newer(other, one)) && (later.len() as u64) < count
    }

    fn by_itself(policy: &Policy, now: DateTime<Utc>, one: &Candidate, all: &[Candidate]) -> bool {
        if one.created_at > now {
            return true;
        }
        let past: Vec<_> = all.iter().filter(|other| other.created_at <= now).collect();
        let ahead = past.iter().filter(|other| sound(other) && newer(other, one)).count() as u64;
        let newest_verified = |full: bool| {
            let wanted = |other: &Candidate| {
                other.health == Health::Verified && (!full || other.backup_type == BackupType::FullCollection)
            };
            wanted(one) && past.iter().all(|other| !wanted(other) || !newer(other, one))
        };
        ahead < policy.count
            || ahead < policy.minimum
            || (policy.days > 0 && (now - one.created_at).num_seconds() <= 86_400 * i64::try_from(policy.days).unwrap())
            || one.tags.iter().any(|tag| policy.tags.contains(tag))
            || in_periods(one, &past, policy.daily, |other| i64::from(other.created_at.date_naive().num_days_from_ce()))
            || in_periods(one, &past, policy.weekly, |other| week(other.created_at))
            || in_periods(one, &past, policy.monthly, |other| {
                i64::from(other.created_at.year()) * 12 + i64::from(other.created_at.month())
            })
            || newest_verified(false)
            || newest_verified(true)
            || holds_what_no_other_does(one, &past)
    }

    /// Whether it holds a partition, or the whole, that no newer one does; the whole holds every partition.
    fn holds_what_no_other_does(one: &Candidate, past: &[&Candidate]) -> bool {
        let is_whole = |other: &Candidate| other.backup_type == BackupType::FullCollection;
        let mut later = past.iter().filter(|other| sound(other) && newer(other, one));
        let of = |name: &String| {
            past.iter().any(|other| sound(other) && newer(other, one) && other.partitions.contains(name))
        };
        sound(one) && !later.any(|other| is_whole(other)) && (is_whole(one) || !one.partitions.iter().all(of))
    }

    pub(super) fn kept(policy: &Policy, now: DateTime<Utc>, all: &[Candidate]) -> BTreeSet<BackupId> {
        let mut kept: BTreeSet<_> =
            all.iter().filter(|one| by_itself(policy, now, one, all)).map(|one| one.id.clone()).collect();
        for _ in all {
            let parents = all.iter().filter(|one| kept.contains(&one.id)).filter_map(|one| one.parent.clone());
            let parents: Vec<_> = parents.filter(|parent| all.iter().any(|one| one.id == *parent)).collect();
            kept.extend(parents);
        }
        kept
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let few = || prop_oneof![Just(0_u64), 0_u64..6];
    (few(), few(), few(), few(), few(), few(), proptest::sample::subsequence(vec!["a", "b"], 0..=2)).prop_map(
        |(count, days, minimum, daily, weekly, monthly, tags)| {
            let tags = tags.into_iter().map(str::to_owned).collect();
            Policy { count, days, minimum, daily, weekly, monthly, tags }
        },
    )
}

fn backups() -> impl Strategy<Value = Vec<Candidate>> {
    // Hours before now: dense days, sparse months, a few from the future, some at the same instant.
    let age = prop_oneof![4 => 0_i64..200, 2 => 0_i64..3000, 1 => -100_i64..1];
    let health = prop_oneof![3 => Just(Health::Unknown), 1 => Just(Health::Verified), 1 => Just(Health::Damaged)];
    let kind =
        (prop_oneof![1 => Just(true), 4 => Just(false)], proptest::sample::subsequence(vec!["p", "q", "r"], 0..=3));
    let one = (age, health, kind, proptest::sample::subsequence(vec!["a", "b", "c"], 0..=1), 0..60_usize);
    proptest::collection::vec(one, 0..24).prop_map(|all| {
        type Drawn<'a> = (i64, Health, (bool, Vec<&'a str>), Vec<&'a str>, usize);
        let build = |(number, (hours, health, (full, names), tags, parent)): (usize, Drawn)| {
            let tags = tags.into_iter().map(str::to_owned).collect();
            let parent = (parent < 24).then(|| id(parent));
            let made = if full { aged(number, hours) } else { parts(number, hours, &names) };
            Candidate { tags, parent, health, ..made }
        };
        all.into_iter().enumerate().map(build).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_plan_is_what_the_rules_say_of_each_backup(policy in policies(), all in backups()) {
        let plan = plan(&policy, now(), &all);
        let kept: BTreeSet<_> = plan.kept.keys().cloned().collect();
        prop_assert_eq!(&kept, &oracle::kept(&policy, now(), &all));
        let deleted: BTreeSet<_> = plan.delete.iter().cloned().collect();
        prop_assert_eq!(deleted.len(), plan.delete.len());
        prop_assert!(deleted.is_disjoint(&kept));
        prop_assert_eq!(deleted.len() + kept.len(), all.len());
    }

    #[test]
    fn a_clock_that_is_behind_never_makes_a_backup_go(policy in policies(), all in backups(), hours in 0_i64..4000) {
        let right: BTreeSet<_> = plan(&policy, now(), &all).kept.into_keys().collect();
        let behind: BTreeSet<_> = plan(&policy, now() - TimeDelta::hours(hours), &all).kept.into_keys().collect();
        prop_assert!(behind.is_superset(&right));
    }

    #[test]
    fn a_clock_that_is_ahead_changes_nothing_but_what_days_keep(policy in policies(), all in backups(), hours in 0_i64..400_000) {
        let policy = Policy { days: 0, ..policy };
        let all: Vec<_> = all.into_iter().filter(|one| one.created_at <= now()).collect();
        prop_assert_eq!(plan(&policy, now() + TimeDelta::hours(hours), &all).kept, plan(&policy, now(), &all).kept);
    }

    #[test]
    fn backups_from_the_future_and_damage_make_no_other_backup_go(
        policy in policies(), mut all in backups(), hours in 1_i64..100_000, broken in 0..24_usize
    ) {
        let before: BTreeSet<_> = plan(&policy, now(), &all).kept.into_keys().collect();
        all.push(Candidate { health: Health::Verified, ..aged(999, -hours) });
        if let Some(one) = all.get_mut(broken) {
            one.health = Health::Damaged;
        }
        let after: BTreeSet<_> = plan(&policy, now(), &all).kept.into_keys().collect();
        let lost: Vec<_> = before.difference(&after).collect();
        // The damaged one may go, and what only it was built on.
        let mut excused = BTreeSet::new();
        let mut at = all.get(broken).map(|one| one.id.clone());
        while let Some(one) = at.filter(|one| excused.insert(one.clone())) {
            at = all.iter().find(|other| other.id == one).and_then(|other| other.parent.clone());
        }
        prop_assert!(lost.into_iter().all(|one| excused.contains(one)));
    }

    #[test]
    fn what_builds_on_another_goes_before_it(all in backups()) {
        // Ids that are lower than their child's make no circles.
        let all: Vec<_> = all.into_iter().map(|mut one| { one.parent = one.parent.filter(|parent| *parent < one.id); one }).collect();
        let order = plan(&NOTHING, now(), &all).delete;
        for one in &all {
            let at = |id: &BackupId| order.iter().position(|other| other == id);
            if let (Some(child), Some(parent)) = (at(&one.id), one.parent.as_ref().and_then(at)) {
                prop_assert!(child < parent);
            }
        }
    }
}

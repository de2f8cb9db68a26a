//! What `verification.json` amounts to: the last outcome at its top level, and under `by_type` when each type of
//! verification last ended, and how.
//!
//! Damage that one type found is not forgotten when a weaker one, which may not look there, finds nothing: it stands
//! until a type that is at least as thorough has found the backup whole.

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value, json};

use super::retention::Health;

const BY_TYPE: &str = "by_type";

/// How thorough a type is.
fn thoroughness(verification_type: &str) -> u8 {
    match verification_type {
        "DEEP" => 2,
        "CHECKSUM" => 1,
        _ => 0,
    }
}

/// What a backup's `verification.json`, if it has one, says of its health.
#[must_use]
pub fn health(verification: Option<&Value>) -> Health {
    let Some(verification) = verification else { return Health::Unknown };
    let mut outcomes: Vec<_> = verification.get("success").and_then(Value::as_bool).into_iter().collect();
    outcomes.extend(by_type(verification).values().filter_map(|last| last.get("success")?.as_bool()));
    match outcomes[..] {
        [] => Health::Unknown,
        _ if outcomes.contains(&false) => Health::Damaged,
        _ => Health::Verified,
    }
}

/// Type → `verified_at` and `success` of its last outcome.
#[must_use]
pub fn by_type(verification: &Value) -> Map<String, Value> {
    match verification.get(BY_TYPE) {
        Some(Value::Object(last)) => last
            .iter()
            .filter(|(_, found)| found.is_object())
            .map(|(name, found)| (name.clone(), found.clone()))
            .collect(),
        _ => entry(verification).into_iter().collect(),
    }
}

/// When the backup was last verified; `None` where what stands there is no time of a zone.
#[must_use]
pub fn verified_at(verification: &Value) -> Option<DateTime<Utc>> {
    let text = verification.get("verified_at")?.as_str()?;
    let time = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (1..=9999).contains(&time.year()).then_some(time)
}

/// What the file has to say after `outcome`, where it said `before`.
pub(super) fn noted(before: Option<&Value>, outcome: &Value) -> Value {
    let mut last = before.map(by_type).unwrap_or_default();
    if let Some((verification_type, entry)) = entry(outcome) {
        if entry["success"] == Value::Bool(true) {
            let here = thoroughness(&verification_type);
            last.retain(|other, found| thoroughness(other) > here || found["success"] != Value::Bool(false));
        }
        last.insert(verification_type, entry);
    }
    let mut file = outcome.clone();
    if let Value::Object(members) = &mut file {
        members.insert(BY_TYPE.to_owned(), Value::Object(last));
    }
    file
}

fn entry(outcome: &Value) -> Option<(String, Value)> {
    let verification_type = outcome.get("verification_type")?.as_str()?.to_owned();
    let verified_at = outcome.get("verified_at").cloned().unwrap_or_default();
    Some((verification_type, json!({"verified_at": verified_at, "success": outcome.get("success")?.as_bool()?})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verification_type: &str, success: bool, at: u32) -> Value {
        json!({"verification_type": verification_type, "success": success, "verified_at": format!("day {at}"), "errors": []})
    }

    fn after(outcomes: &[(&str, bool)]) -> Value {
        let mut file = None;
        for (at, (verification_type, success)) in (0..).zip(outcomes) {
            file = Some(noted(file.as_ref(), &outcome(verification_type, *success, at)));
        }
        file.unwrap()
    }

    #[test]
    fn the_last_outcome_is_at_the_top_and_the_last_of_each_type_below() {
        let file = after(&[("DEEP", true), ("CHECKSUM", true), ("QUICK", true), ("QUICK", true)]);
        assert_eq!((&file["verification_type"], &file["verified_at"]), (&json!("QUICK"), &json!("day 3")));
        assert_eq!(file["by_type"]["DEEP"], json!({"verified_at": "day 0", "success": true}));
        assert_eq!(file["by_type"]["QUICK"]["verified_at"], "day 3");
        assert_eq!(file["errors"], json!([]));
        assert_eq!(health(Some(&file)), Health::Verified);
    }

    #[test]
    fn damage_stands_until_a_type_as_thorough_finds_the_backup_whole() {
        for (outcomes, expected) in [
            (&[("CHECKSUM", false), ("QUICK", true)][..], Health::Damaged),
            (&[("CHECKSUM", false), ("CHECKSUM", true)], Health::Verified),
            (&[("QUICK", false), ("CHECKSUM", true)], Health::Verified),
            (&[("CHECKSUM", false), ("QUICK", false), ("DEEP", true)], Health::Verified),
            (&[("DEEP", false), ("CHECKSUM", true), ("QUICK", true)], Health::Damaged),
            (&[("CHECKSUM", true), ("QUICK", false)], Health::Damaged),
        ] {
            assert_eq!(health(Some(&after(outcomes))), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn a_file_without_the_map_counts_by_its_one_outcome() {
        assert_eq!(health(Some(&outcome("CHECKSUM", true, 1))), Health::Verified);
        assert_eq!(health(Some(&outcome("CHECKSUM", false, 1))), Health::Damaged);
        assert_eq!(by_type(&outcome("CHECKSUM", true, 1))["CHECKSUM"]["verified_at"], "day 1");
        let file = noted(Some(&outcome("CHECKSUM", false, 1)), &outcome("QUICK", true, 2));
        assert_eq!(health(Some(&file)), Health::Damaged);
    }

    #[test]
    fn what_makes_no_sense_is_no_verification() {
        for value in [json!({}), json!([]), json!(null), json!({"success": "yes", "by_type": 3})] {
            assert_eq!(health(Some(&value)), Health::Unknown, "{value}");
            noted(Some(&value), &json!({"by_type": []}));
        }
        assert_eq!(health(None), Health::Unknown);
        assert_eq!(by_type(&json!({"by_type": {"DEEP": 3, "QUICK": {"success": true}}})).len(), 1);
        for time in [json!(5), json!("yesterday"), json!("2026-01-01T00:00:00"), json!("+12026-01-01T00:00:00Z")] {
            assert_eq!(verified_at(&json!({"verified_at": time})), None);
        }
        assert!(verified_at(&json!({"verified_at": "2026-11-21T06:30:00.5+01:00"})).is_some());
    }
}

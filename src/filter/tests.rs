use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::Kind;

fn schema(dynamic: bool) -> CollectionSchema {
    let field = |name: &str, data_type: &str, id: i64| json!({"id": id, "name": name, "data_type": data_type});
    let mut fields = vec![
        json!({"id": 100, "name": "id", "data_type": "int64", "primary_key": true}),
        field("flag", "bool", 101),
        json!({"id": 102, "name": "small", "data_type": "int8", "nullable": true}),
        field("ratio", "float", 103),
        field("precise", "double", 104),
        json!({"id": 105, "name": "text", "data_type": "varchar", "nullable": true}),
        json!({"id": 106, "name": "meta", "data_type": "json", "nullable": true}),
        field("time", "timestamptz", 107),
        json!({"id": 108, "name": "vector", "data_type": "float_vector", "params": {"dim": "2"}}),
        json!({"id": 109, "name": "made", "data_type": "sparse_float_vector", "function_output": true}),
    ];
    if dynamic {
        fields.push(json!({"id": 110, "name": "$meta", "data_type": "json", "dynamic": true}));
    }
    serde_json::from_value(json!({"enable_dynamic_field": dynamic, "fields": fields})).unwrap()
}

/// Six rows; the vector is left out, as nothing asks for it.
fn rows() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![0, 1, 2, i64::MAX, i64::MIN, (1 << 53) + 1]))),
        ("flag", Arc::new(BooleanArray::from(vec![true, false, true, false, true, false]))),
        ("small", Arc::new(Int8Array::from(vec![Some(-128), Some(1), None, Some(3), Some(127), None]))),
        ("ratio", Arc::new(Float32Array::from(vec![0.1, -0.0, f32::NAN, 1.5, 16_777_216.0, 3.4e38]))),
        ("precise", Arc::new(Float64Array::from(vec![0.1, -0.0, f64::NAN, 1.5, 9_007_199_254_740_992.0, 1.7e308]))),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some(""),
                Some("apple"),
                None,
                Some("ap%le"),
                Some("q\"'\n"),
                Some("äp🐍"),
            ])),
        ),
        (
            "meta",
            Arc::new(StringArray::from(vec![
                Some(r#"{"a": 1, "b": {"c": [10, "x"]}}"#),
                Some(r#"{"a": "1", "b": null}"#),
                None,
                Some(r#"{"a": true}"#),
                Some(r#"{"a": [1]}"#),
                Some(r#"{"a": 1.5, "n": 9007199254740993}"#),
            ])),
        ),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 3, 4, 1_700_000_000_000_000]).with_timezone("UTC")),
        ),
        (
            "$meta",
            Arc::new(StringArray::from(vec![
                r#"{"colour": "red"}"#,
                r#"{"colour": "blue", "size": 3}"#,
                "{}",
                r#"{"size": 3.5}"#,
                r#"{"colour": null}"#,
                r#"{"a b": 1}"#,
            ])),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn matching(text: &str) -> Vec<usize> {
    let filter = Filter::parse(text, &schema(true)).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mask = filter.mask(&rows()).unwrap();
    assert_eq!(arrow_array::Array::null_count(&mask), 0);
    (0..mask.len()).filter(|row| mask.value(*row)).collect()
}

#[test]
fn each_condition_finds_its_rows() {
    let expected: &[(&str, &[usize])] = &[
        ("id == 9223372036854775807", &[3]),
        ("id == -9223372036854775808", &[4]),
        ("id == 9007199254740993", &[5]),
        ("id > 9007199254740992.0", &[3, 5]),
        ("id == 0x2", &[2]),
        ("id in [1, 2, 99]", &[1, 2]),
        ("id in [1, 2.5,]", &[1]),
        ("id in []", &[]),
        ("1 <= id < 3", &[1, 2]),
        ("2 >= id > 0", &[1, 2]),
        ("0 < id", &[1, 2, 3, 5]),
        ("small < 300", &[0, 1, 3, 4]),
        ("small == 300", &[]),
        ("not (small > 2)", &[0, 1]),
        ("small is null", &[2, 5]),
        ("small is not null and small != 1", &[0, 3, 4]),
        ("small not in [1]", &[0, 3, 4]),
        ("small == 1 or id == 2", &[1, 2]),
        ("small == 1 OR id >= -9223372036854775808", &[0, 1, 2, 3, 4, 5]),
        ("not (small == 1 and id == 1)", &[0, 2, 3, 4, 5]),
        ("flag", &[0, 2, 4]),
        ("!flag", &[1, 3, 5]),
        ("not flag == true", &[1, 3, 5]),
        ("flag in [false]", &[1, 3, 5]),
        ("ratio == 0.1", &[0]),
        ("ratio != 0.1", &[1, 2, 3, 4, 5]),
        ("ratio < 0.1", &[1]),
        ("ratio == 16777217", &[4]),
        ("ratio in [0.1, 0]", &[0, 1]),
        ("precise == 0.1", &[0]),
        ("precise == 9007199254740993", &[4]),
        ("precise > 1e308", &[5]),
        ("not (precise > 0)", &[1, 2]),
        ("precise == .1 or precise == 1.5E0", &[0, 3]),
        ("text == ''", &[0]),
        (r#"text == "q\"'\n""#, &[4]),
        (r#"text == 'q"\'\u000a'"#, &[4]),
        (r#"text == "\u00e4p\ud83d\udc0d""#, &[5]),
        (r#"text > "apple""#, &[4, 5]),
        (r#"text like "ap%le""#, &[1, 3]),
        (r#"text like "ap\\%le""#, &[3]),
        (r#"text like "__🐍""#, &[5]),
        (r#"text not like "ap%""#, &[0, 4, 5]),
        (r#"not (text like "ap%")"#, &[0, 4, 5]),
        (r#"text in ["apple", "ap%le"]"#, &[1, 3]),
        (r#"meta["a"] == 1"#, &[0]),
        (r#"meta["a"] != 1"#, &[1, 3, 4, 5]),
        (r#"meta["a"] > 0"#, &[0, 5]),
        (r#"not (meta["a"] > 1)"#, &[0]),
        ("meta['a'] == true", &[3]),
        (r#"meta["a"] in [1, "1", true]"#, &[0, 1, 3]),
        (r#"meta["a"] like "1%""#, &[1]),
        (r#"meta["n"] == 9007199254740993"#, &[5]),
        (r#"meta["n"] == 9007199254740992"#, &[]),
        (r#"meta["b"]["c"][0] == 10 and meta["b"]["c"][1] == "x""#, &[0]),
        (r#"meta["b"] is null"#, &[1, 2, 3, 4, 5]),
        ("meta is null", &[2]),
        (r#"colour == "red""#, &[0]),
        (r#"colour != "red""#, &[1]),
        ("colour is null", &[2, 3, 4, 5]),
        (r#"$meta["a b"] == 1"#, &[5]),
        ("2 < size < 4", &[1, 3]),
        ("absent == 1", &[]),
        (r#"time >= "2023-01-01T00:00:00Z""#, &[5]),
        (r#"time < ISO "1970-01-01T00:00:00.000002+00:00""#, &[0, 1]),
        ("precise == ratio", &[1, 3]),
        ("id < small", &[4]),
        ("true", &[0, 1, 2, 3, 4, 5]),
        ("false or id == 1", &[1]),
        ("( id==1)and(flag == false)", &[1]),
        ("id == 1 or id == 2 and flag == false", &[1]),
        ("id == --1 and id == +1", &[1]),
    ];
    for (text, rows) in expected {
        assert_eq!(matching(text), *rows, "{text}");
    }
}

#[test]
fn a_wrong_filter_is_refused_with_its_place_and_field() {
    let long = format!("id in [{}", "1,".repeat(MOST_BYTES / 2));
    let deep = format!("{}id == 1{}", "(".repeat(101), ")".repeat(101));
    for (text, position, word) in [
        ("", 1, "missing"),
        ("id ==", 6, "missing"),
        ("id = 1", 4, "=="),
        ("id <> 1", 5, "'>'"),
        ("id == 1 flag", 9, "ended"),
        ("1 == 1", 1, "no field"),
        ("id", 3, "comparison"),
        ("id == 'x'", 7, "'id'"),
        ("flag == 1", 9, "'flag'"),
        ("text == 1", 9, "'text'"),
        ("id == 010", 7, "octal"),
        ("id == 1_0", 7, "number"),
        ("id == 9223372036854775808", 7, "int64"),
        ("precise < 1e400", 11, "double"),
        ("text == 'open", 9, "quote"),
        (r#"text like "a\%""#, 13, "escape"),
        (r#"text like "a\\""#, 11, "backslash"),
        ("id like 'a%'", 4, "'id'"),
        ("vector == 1", 11, "'vector'"),
        ("made == 1", 1, "function"),
        ("meta == 1", 9, "'meta'"),
        ("vector[0] == 1", 7, "JSON"),
        ("small % 2 == 1", 7, "arithmetic"),
        ("small + 2 == 1", 7, "arithmetic"),
        ("array_contains(small, 1)", 1, "functions"),
        ("exists meta[\"a\"]", 1, "is not null"),
        ("id in 1", 7, "'['"),
        ("id in [flag]", 8, "no fields"),
        ("id in [1 2]", 10, "']'"),
        ("(id == 1", 9, "')'"),
        ("1 < id > 2", 8, "range"),
        ("id < 1 < 2", 8, "range"),
        ("time > 'soon'", 8, "'time'"),
        ("id == text", 7, "'id'"),
        (deep.as_str(), 101, "deeper"),
    ] {
        let error = Filter::parse(text, &schema(true)).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{text}");
        assert!(error.message().contains(word), "{text}: {error}");
        assert_eq!(error.details()["position"], position, "{text}: {error}");
    }
    assert!(Filter::parse(&long, &schema(true)).unwrap_err().message().contains("limit"));
    let unknown = Filter::parse("id == 1 and colour == 1", &schema(false)).unwrap_err();
    assert_eq!(unknown.details()["field"], "colour");
    assert!(unknown.message().contains("id, flag, small"), "{unknown}");
    let secret = Filter::parse("text == 'hunter2' nonsense 'hunter2'", &schema(true)).unwrap_err();
    assert!(!secret.message().contains("hunter2"));
}

#[test]
fn the_fields_of_a_filter_are_those_it_names() {
    let filter = Filter::parse(r#"id == 1 or (colour == "red" and size > 1) or id == 2"#, &schema(true)).unwrap();
    assert_eq!(filter.fields(), ["id", "$meta"]);
}

#[test]
fn a_long_list_and_a_long_chain_are_fine() {
    let list = (0..100_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(matching(&format!("id in [{list}]")), [0, 1, 2]);
    assert_eq!(matching(&vec!["id == 1"; 20_000].join(" or ")), [1]);
}

fn bounds_of(batch: &RecordBatch) -> HashMap<String, Bounds> {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int8Type};
    let nulls = |array: &dyn Array| match array.null_count() {
        0 => Nulls::None,
        all if all == array.len() => Nulls::All,
        _ => Nulls::Possible,
    };
    let (small, precise, text) = (&batch["small"], &batch["precise"], &batch["text"]);
    let ints: Vec<i8> = small.as_primitive::<Int8Type>().iter().flatten().collect();
    let floats: Vec<f64> =
        precise.as_primitive::<Float64Type>().values().iter().copied().filter(|x| !x.is_nan()).collect();
    let texts: Vec<&str> = text.as_string::<i32>().iter().flatten().collect();
    let float = |value: Option<&f64>| value.map(|value| Bound::Float(*value));
    HashMap::from([
        (
            "small".to_owned(),
            Bounds {
                lowest: ints.iter().min().map(|value| Bound::Int((*value).into())),
                highest: ints.iter().max().map(|value| Bound::Int((*value).into())),
                nulls: nulls(small),
            },
        ),
        (
            "precise".to_owned(),
            Bounds {
                lowest: float(floats.iter().min_by(|a, b| a.total_cmp(b))),
                highest: float(floats.iter().max_by(|a, b| a.total_cmp(b))),
                nulls: nulls(precise),
            },
        ),
        (
            "text".to_owned(),
            Bounds {
                // Cut short, as Parquet does: the lowest to its first byte, the highest to a text above all.
                lowest: texts.iter().min().map(|text| Bound::Text(text.bytes().take(1).collect())),
                highest: texts
                    .iter()
                    .max()
                    .map(|text| Bound::Text(text.bytes().take(1).map(|byte| byte + 1).collect())),
                nulls: nulls(text),
            },
        ),
    ])
}

#[test]
fn row_groups_without_a_match_are_told_by_their_bounds() {
    let batch = rows();
    let bounds = HashMap::from([
        (
            "small".to_owned(),
            Bounds { lowest: Some(Bound::Int(10)), highest: Some(Bound::Int(20)), nulls: Nulls::None },
        ),
        (
            "text".to_owned(),
            Bounds {
                lowest: Some(Bound::Text(b"b".to_vec())),
                highest: Some(Bound::Text(b"d".to_vec())),
                nulls: Nulls::None,
            },
        ),
        (
            "ratio".to_owned(),
            Bounds { lowest: Some(Bound::Float(1.0)), highest: Some(Bound::Float(1.0)), nulls: Nulls::None },
        ),
        ("meta".to_owned(), Bounds { lowest: None, highest: None, nulls: Nulls::All }),
    ]);
    for (text, may) in [
        ("small < 10", false),
        ("small <= 10", true),
        ("small > 20", false),
        ("small == 21", false),
        ("small in [1, 21, 9]", false),
        ("small in [1, 15]", true),
        ("not (small >= 10)", false),
        ("small is null", false),
        ("small is not null", true),
        ("text < 'b'", false),
        ("text like 'a%'", false),
        ("text like 'c%'", true),
        ("text like '%a'", true),
        ("text == 'e'", false),
        ("text in ['a', 'e']", false),
        ("text in ['a', 'c']", true),
        ("text like 'd%'", true),
        ("text like 'da%'", false),
        ("ratio == 2", false),
        ("ratio != 1", true),
        ("not (ratio < 5)", true),
        ("ratio > 1", false),
        ("meta['a'] == 1", false),
        ("not (meta['a'] == 1)", false),
        ("meta['a'] is null", true),
        ("meta is not null", false),
        ("small < 10 or text == 'c'", true),
        ("small < 10 and text == 'c'", false),
        ("id == 1", true),
        ("colour == 1", true),
        ("small < id", true),
        ("false", false),
        ("flag == true and false", false),
    ] {
        assert_eq!(Filter::parse(text, &schema(true)).unwrap().may_match(&bounds), may, "{text}");
    }
    assert!(Filter::parse("small == 1", &schema(true)).unwrap().may_match(&bounds_of(&batch)));
}

fn condition() -> impl Strategy<Value = String> {
    let comparison = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let number = (comparison.clone(), -3_i8..4).prop_map(|(sign, value)| format!("small {sign} {value}"));
    let float = (comparison.clone(), prop::sample::select(vec!["0", "-0.0", "1", "2.5"]))
        .prop_map(|(sign, value)| format!("precise {sign} {value}"));
    let text = (comparison, "[a-d]{0,2}").prop_map(|(sign, value)| format!("text {sign} '{value}'"));
    let set = prop::collection::vec(-3_i8..4, 0..4).prop_map(|values| format!("small in {values:?}"));
    let texts = "[a-d]{0,2}".prop_map(|value| format!("text not in ['{value}', 'b']"));
    let like = "[a-d%_]{0,3}".prop_map(|pattern| format!("text like '{pattern}'"));
    let null = prop::sample::select(vec!["small is null", "text is not null", "true"]).prop_map(str::to_owned);
    let leaf = prop_oneof![number, float, text, set, texts, like, null];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not ({inner})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) and ({right})")),
            (inner.clone(), inner).prop_map(|(left, right)| format!("({left}) or ({right})")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        let _ = Filter::parse(&text, &schema(true));
    }

    #[test]
    fn words_in_any_order_are_answered(words in prop::collection::vec(prop::sample::select(vec![
        "id", "flag", "text", "meta", "$meta", "[", "]", "\"a\"", "'", "(", ")", "not", "and", "||", "in", "like", "is",
        "null", "==", "<", "!", "1", "-", "1.5", "true", ",", "\\", "ISO", ".", "é",
    ]), 0..12)) {
        for glue in ["", " "] {
            if let Ok(filter) = Filter::parse(&words.join(glue), &schema(true)) {
                filter.mask(&rows()).unwrap();
            }
        }
    }

    #[test]
    fn rows_that_match_lie_in_groups_that_may(
        text in condition(),
        small in prop::collection::vec(prop::option::of(-3_i8..4), 1..4),
        precise in prop::sample::select(vec![0.0, -0.0, 1.0, 2.5, f64::NAN]),
        words in prop::collection::vec(prop::option::of("[a-d]{0,2}"), 3),
    ) {
        let rows = small.len();
        let batch = RecordBatch::try_from_iter([
            ("small", Arc::new(Int8Array::from(small)) as ArrayRef),
            ("precise", Arc::new(Float64Array::from((0..rows).map(|row| if row == 0 { precise } else { 1.0 }).collect::<Vec<_>>()))),
            ("text", Arc::new(StringArray::from(words[..rows].to_vec()))),
        ]).unwrap();
        let filter = Filter::parse(&text, &schema(true)).unwrap();
        let matches = filter.mask(&batch).unwrap().true_count() > 0;
        prop_assert!(!matches || filter.may_match(&bounds_of(&batch)), "{}", text);
    }
}

//! What a row group's statistics say of its columns, as bounds that a filter can judge by.

use std::collections::HashMap;

use arrow_schema::{DataType as ArrowType, Schema};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use crate::filter::{Bound, Bounds, Nulls};

/// The bounds of those of `fields` whose statistics can be relied on. Only columns of one leaf have any.
pub(super) fn bounds(schema: &Schema, row_group: &RowGroupMetaData, fields: &[String]) -> HashMap<String, Bounds> {
    let rows = u64::try_from(row_group.num_rows()).unwrap_or(0);
    let found = fields.iter().filter_map(|name| {
        let field = schema.field_with_name(name).ok()?;
        let column = row_group.columns().iter().find(|column| column.column_path().parts() == [name.as_str()])?;
        let statistics = column.statistics()?;
        let nulls = match statistics.null_count_opt() {
            _ if !field.is_nullable() => Nulls::None,
            Some(0) => Nulls::None,
            Some(count) if count == rows => Nulls::All,
            _ => Nulls::Possible,
        };
        let (lowest, highest) = values(field.data_type(), statistics).unwrap_or_default();
        Some((name.clone(), Bounds { lowest, highest, nulls }))
    });
    found.collect()
}

type Pair = (Option<Bound>, Option<Bound>);

fn pair<T>(lowest: Option<&T>, highest: Option<&T>, bound: impl Fn(&T) -> Bound) -> Pair {
    (lowest.map(&bound), highest.map(&bound))
}

/// The least and the greatest value, where the two types belong together: a footer may say what it likes.
fn values(data_type: &ArrowType, statistics: &Statistics) -> Option<Pair> {
    // The old pair of fields was filled by writers that disagreed about the order; ours never fills it alone.
    if statistics.is_min_max_deprecated() {
        return None;
    }
    Some(match (data_type, statistics) {
        (ArrowType::Boolean, Statistics::Boolean(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Bool(*value))
        }
        (ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32, Statistics::Int32(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Int((*value).into()))
        }
        (ArrowType::Int64 | ArrowType::Timestamp(..), Statistics::Int64(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Int(*value))
        }
        (ArrowType::Float32, Statistics::Float(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Float((*value).into()))
        }
        (ArrowType::Float64, Statistics::Double(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Float(*value))
        }
        // Cut short where they are long: the least to less, the greatest to more. Both stay bounds.
        (ArrowType::Utf8, Statistics::ByteArray(found)) => {
            pair(found.min_opt(), found.max_opt(), |value| Bound::Text(value.data().to_vec()))
        }
        _ => return None,
    })
}

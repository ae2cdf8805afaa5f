//! Tables for people.

/// Columns as wide as their widest cell; the last one is as it is.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).filter(|_| column + 1 < N).unwrap_or_default();
            text.push_str(&format!("{cell:width$}"));
            text.push_str(if column + 1 < N { "  " } else { "\n" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns() {
        let rows = [["NAME", "X"], ["a", "long"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NAME  X\na     long\n");
    }
}

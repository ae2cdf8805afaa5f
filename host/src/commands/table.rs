//! Formats tables for people.

/// Formats rows with columns as wide as their widest cell; the last column is not padded. Line breaks in a cell become
/// spaces.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell))).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).filter(|_| column + 1 < N).unwrap_or_default();
            text.push_str(&format!("{cell:width$}"));
            text.push_str(if column + 1 < N { "  " } else { "\n" });
        }
    }
    text
}

fn one_line(cell: &str) -> String {
    cell.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns() {
        let rows = [["NAME", "X"], ["a", "long"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "NAME  X\na     long\n");
        let rows = [["two\n  lines", "x\n\ny\n"].map(str::to_owned)];
        assert_eq!(table(&rows), "two lines  x y\n");
    }
}

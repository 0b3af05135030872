//! Columns of text for a terminal.

/// The widest cell, in characters.
const CELL_MAX: usize = 60;

/// Rows under a head, every column as wide as its widest cell.
pub(super) fn render<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    render_all(&head.map(str::to_owned), rows)
}

/// The same where the columns are not known beforehand.
pub(super) fn render_all(head: &[String], rows: &[impl AsRef<[String]>]) -> String {
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(rows.iter().map(AsRef::as_ref))
        .map(|row| row.iter().cloned().map(clean).collect())
        .collect();
    let mut widths = vec![0; head.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            let blanks = width.saturating_sub(cell.chars().count()).saturating_add(2);
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and their values, one a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name:width$}  {}\n", printable(value))).collect()
}

fn clean(cell: String) -> String {
    let cell = printable(&cell);
    if cell.chars().count() <= CELL_MAX {
        return cell;
    }
    let mut short: String = cell.chars().take(CELL_MAX.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Agents write some of these texts (rule P4): a terminal must not obey them.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for a text of several lines.
pub(super) fn printable_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", printable(line))).collect()
}

/// Whether a terminal acts on `c`. Bidirectional overrides reorder what is shown without being
/// control characters.
pub(super) fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_terminals_are_not_driven() {
        let rows = [["a".to_owned(), "x\u{1b}[2J".to_owned()], ["long".to_owned(), "y".repeat(80)]];
        let text = render(["ID", "TEXT"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["ID    TEXT", "a     x\u{fffd}[2J"]);
        assert_eq!(lines[2].chars().count(), 6 + CELL_MAX);
        assert_eq!(pairs(&[("id", "1".to_owned()), ("vendor", "2".to_owned())]), "id      1\nvendor  2\n");
    }
}

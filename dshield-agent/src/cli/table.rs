//! Columns for people, no wider than their terminal: the last column goes on in further lines.

/// What fits everywhere; a shell that exports `COLUMNS` gets its own.
const WIDTH: usize = 80;

/// The last column is never squeezed below this.
const NARROWEST: usize = 24;

/// Rows below their heads, each line with this indent. A cell of the last column may hold several lines.
pub(super) fn table<const N: usize>(indent: usize, head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let before: usize = indent + widths[..N - 1].iter().map(|width| width + 2).sum::<usize>();
    let room = columns().saturating_sub(before).max(NARROWEST);
    let mut out = String::new();
    for row in all() {
        out.push_str(&" ".repeat(indent));
        for (cell, width) in row[..N - 1].iter().zip(widths) {
            out.push_str(&format!("{cell:width$}  "));
        }
        let lines: Vec<_> = row[N - 1].lines().flat_map(|line| wrap(line, room)).collect();
        let text = lines.join(&format!("\n{}", " ".repeat(before)));
        out.push_str(&text);
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// One text in lines of this width at most, broken between words; a longer word stays whole, to be copied.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// How wide the terminal is.
pub(super) fn columns() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    told.filter(|columns| (60..=400).contains(columns)).unwrap_or(WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_goes_on_below_itself() {
        let rows = [["a".to_owned(), "word ".repeat(30)], ["bcd".to_owned(), "one\ntwo".to_owned()]];
        let text = table(1, ["X", "TEXT"], &rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], " X    TEXT");
        assert!(lines[1].starts_with(" a    word word") && lines[2].starts_with("      word"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= columns()), "{text}");
        assert_eq!(lines[lines.len() - 2..], [" bcd  one", "      two"]);
    }
}

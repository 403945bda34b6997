//! What is wrong with a file, and where.
use std::fmt;
use std::ops::Range;

/// A place in a text: line and column, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

/// One problem in a `dshield.toml`. The fault is the writer's; the hint says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Diagnostic {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong, as one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A problem at `position`.
    #[must_use]
    pub fn new(position: Position, message: String, hint: Option<String>) -> Self {
        Self { line: position.line, column: position.column, message, hint }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Collects problems, and turns byte offsets into lines and columns.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    found: Vec<Diagnostic>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, line_starts, found: Vec::new() }
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1]; // the first line starts at 0, so `line` is at least 1
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }

    pub(super) fn add(&mut self, at: &Range<usize>, message: impl Into<String>) {
        self.found.push(Diagnostic::new(self.position(at.start), message.into(), None));
    }

    pub(super) fn add_with_hint(&mut self, at: &Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.found.push(Diagnostic::new(self.position(at.start), message.into(), Some(hint.into())));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Every problem, in the order of the text.
    pub(super) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort();
        self.found
    }
}

/// `did you mean …?` with the candidate that is nearest to `word`, if one is near enough to be a slip of the pen.
pub(super) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let word = word.to_lowercase();
    if word.len() > 64 {
        return None;
    }
    let (distance, nearest) = candidates
        .into_iter()
        .map(|candidate| (edit_distance(&word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    let longer = word.chars().count().max(nearest.chars().count());
    (distance <= (longer / 3).max(1) && distance < longer).then(|| format!("did you mean `{nearest}`?"))
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b` (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        let findings = Findings::new("a\näö = 1\n");
        assert_eq!(findings.position(0), Position { line: 1, column: 1 });
        assert_eq!(findings.position(2), Position { line: 2, column: 1 });
        assert_eq!(findings.position(6), Position { line: 2, column: 3 });
        assert_eq!(findings.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn the_nearest_word_is_suggested_only_when_it_is_near() {
        let fields = ["host", "ports", "methods"];
        assert_eq!(did_you_mean("hots", fields).as_deref(), Some("did you mean `host`?"));
        assert_eq!(did_you_mean("Port", fields).as_deref(), Some("did you mean `ports`?"));
        assert_eq!(did_you_mean("method", fields).as_deref(), Some("did you mean `methods`?"));
        assert_eq!(did_you_mean("colour", fields), None);
        assert_eq!(did_you_mean("", fields), None);
        assert_eq!(did_you_mean(&"h".repeat(100), fields), None);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        assert_eq!(edit_distance("ab", "ba"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}

//! How the story is told: lines for a person, and the count of expectations that did not hold.
use std::io::IsTerminal;

/// The teller.
#[derive(Debug)]
pub struct Story {
    colour: bool,
    chapter: u32,
    held: u32,
    broken: Vec<String>,
}

impl Story {
    /// Coloured on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    #[must_use]
    pub fn to_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !plain, chapter: 0, held: 0, broken: Vec::new() }
    }

    /// Begins a numbered part.
    pub fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.chapter)));
    }

    /// A plain line.
    pub fn say(&self, line: &str) {
        println!("   {line}");
    }

    /// A line that explains the one before.
    pub fn aside(&self, line: &str) {
        println!("     {}", self.paint("2", line));
    }

    /// A line of the log; refusals stand out.
    pub fn entry(&self, line: &str, refusal: bool) {
        println!("   {}", if refusal { self.paint("33", line) } else { line.to_owned() });
    }

    /// Tells `what` was expected and whether it held; `found` is shown when it did not.
    pub fn expect(&mut self, what: &str, held: bool, found: &str) {
        if held {
            self.held += 1;
            println!("   {} {what}", self.paint("32", "✔"));
        } else {
            println!("   {} {what}", self.paint("31", "✘"));
            println!("     found instead: {found}");
            self.broken.push(what.to_owned());
        }
    }

    /// The last line; true when everything held.
    #[must_use]
    pub fn end(self) -> bool {
        let all = self.held as usize + self.broken.len();
        if self.broken.is_empty() {
            println!("\n{}", self.paint("1;32", &format!("All {all} expectations held.")));
            return true;
        }
        println!("\n{}", self.paint("1;31", &format!("{} of {all} expectations did not hold:", self.broken.len())));
        for what in &self.broken {
            println!("   {} {what}", self.paint("31", "✘"));
        }
        false
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

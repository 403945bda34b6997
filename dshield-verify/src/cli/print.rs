//! A verdict as a person reads it on a terminal.
use std::fmt::Write;

use crate::client::printable;
use crate::destinations::Destination;
use crate::verdict::{Outcome, Question, Step, StepResult, Verdict};

/// Columns of text; longer sentences go on in the next line.
const WIDTH: usize = 110;
/// Where sentences begin.
const INDENT: usize = 24;

/// The whole verdict on `subject`.
pub(super) fn verdict(subject: &str, verdict: &Verdict) -> String {
    let mut text = format!("{}\n", printable(subject));
    for question in Question::ALL {
        let steps: Vec<&Step> = verdict.about(question).collect();
        if steps.is_empty() {
            continue;
        }
        let name = match question {
            Question::Machine => "MACHINE",
            Question::Policy => "POLICY",
            Question::Log => "LOG",
        };
        let _ = writeln!(text, "\n{name}: {}", question.asks());
        for step in steps {
            text.push_str(&row(step));
        }
        if question == Question::Policy && !verdict.destinations.is_empty() {
            text.push_str(&destinations(&verdict.destinations));
        }
    }
    let _ = write!(text, "\n{}\n", conclusion(verdict));
    text
}

/// The last line: the answer, and the exit code that stands for it.
pub(super) fn conclusion(verdict: &Verdict) -> String {
    let first = |result| {
        verdict
            .steps
            .iter()
            .find(|step| step.result == result)
            .map(|step| format!("{}: {}", step.step, one_line(&step.says)))
    };
    let code = verdict.outcome.exit_code();
    let development = if verdict.development { "DEVELOPMENT, proves nothing: " } else { "" };
    let answer = match verdict.outcome {
        Outcome::Verified => "VERIFIED".to_owned(),
        Outcome::NotChecked => match first(StepResult::Fail) {
            Some(failed) => format!("COULD NOT JUDGE ({failed})"),
            None => {
                let missing: Vec<&str> = verdict
                    .steps
                    .iter()
                    .filter(|step| step.result == StepResult::NotChecked)
                    .map(|step| step.step.name())
                    .collect();
                format!("COULD NOT JUDGE: not checked, and needed: {}", missing.join(", "))
            }
        },
        _ => format!("NOT VERIFIED ({})", first(StepResult::Fail).unwrap_or_default()),
    };
    let skipped: Vec<&str> =
        verdict.steps.iter().filter(|step| step.result == StepResult::Skipped).map(|step| step.step.name()).collect();
    let without = match (verdict.outcome, skipped.as_slice()) {
        (Outcome::Verified, [_, ..]) => format!(", without: {}", skipped.join(", ")),
        _ => String::new(),
    };
    format!("{development}{answer}{without} [exit code {code}]")
}

fn row(step: &Step) -> String {
    let mark = match step.result {
        StepResult::Pass => "pass",
        StepResult::Fail => "FAIL",
        StepResult::NotChecked => "not checked",
        StepResult::Skipped => "skipped",
    };
    let mut text = String::new();
    let head = format!("  {mark:<12}{:<14}", step.step.name());
    paragraph(&mut text, &head, &step.says);
    let wanted = step.result != StepResult::Pass;
    for observed in step.observed.iter().filter(|_| wanted) {
        // To be copied: never broken.
        let _ = writeln!(
            text,
            "{:width$}{} = {}",
            "",
            printable(&observed.name),
            printable(&observed.value),
            width = INDENT + 4
        );
    }
    for note in &step.notes {
        paragraph(&mut text, "", &format!("note: {note}"));
    }
    text
}

/// `head`, then `says` in lines of its own width.
fn paragraph(text: &mut String, head: &str, says: &str) {
    let mut head = format!("{head:<width$}", width = INDENT + 4);
    for line in says.lines() {
        let mut rest = printable(line);
        loop {
            let cut = cut(&rest);
            let _ = writeln!(text, "{head}{}", rest[..cut].trim_end());
            head = " ".repeat(INDENT + 4);
            rest = rest[cut..].trim_start().to_owned();
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Where the line ends: at the last blank that fits, or where a long word does.
fn cut(text: &str) -> usize {
    let room = WIDTH - INDENT - 4;
    if text.chars().count() <= room {
        return text.len();
    }
    let end = text.char_indices().nth(room).map_or(text.len(), |(at, _)| at);
    match text[..end].rfind(' ') {
        Some(at) if at > 0 => at,
        _ => text[end..].find(' ').map_or(text.len(), |at| end + at),
    }
}

fn destinations(rows: &[Destination]) -> String {
    let mut text = "\n  This deployment can send data to:\n".to_owned();
    let cells: Vec<[String; 2]> = rows.iter().map(|row| [printable(&row.who), printable(&row.to)]).collect();
    let width = |at: usize| cells.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0).min(40);
    let (who, to) = (width(0), width(1));
    for (row, [first, second]) in rows.iter().zip(&cells) {
        let bounds = [row.how.as_str(), row.limits.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        let row = format!("    {first:<who$}  ->  {second:<to$}  {}", printable(&bounds));
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn one_line(text: &str) -> String {
    printable(text.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::StepId;

    #[test]
    fn a_verdict_says_each_step_and_ends_with_the_answer() {
        let steps = vec![
            Step::pass(StepId::Quote, "it is genuine"),
            Step::fail(StepId::Policy, "the policy is not the expected one:\n- a\n+ \u{1b}[2Jb"),
            Step::skipped(StepId::Witnesses, "nobody"),
        ];
        let mut found = Verdict::new(0, true, steps);
        found.destinations = vec![Destination {
            who: "f".to_owned(),
            to: "a.com:443".to_owned(),
            how: "certificate checked".to_owned(),
            limits: "only POST".to_owned(),
        }];
        let text = verdict("https://x", &found);
        for part in [
            "  pass        quote",
            "  FAIL        policy",
            "+ \\u{1b}[2Jb",
            "f  ->  a.com:443  certificate checked; only POST",
            "DEVELOPMENT, proves nothing: NOT VERIFIED (policy: the policy is not the expected one:) [exit code 11]",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn what_was_left_out_is_said_beside_verified() {
        let verdict = |steps| Verdict::new(0, false, steps);
        let left_out = vec![Step::pass(StepId::Quote, ""), Step::skipped(StepId::Channel, "")];
        assert_eq!(conclusion(&verdict(left_out)), "VERIFIED, without: channel [exit code 0]");
        let missing = vec![Step::not_checked(StepId::Measurements, "")];
        assert_eq!(
            conclusion(&verdict(missing)),
            "COULD NOT JUDGE: not checked, and needed: measurements [exit code 20]"
        );
    }

    #[test]
    fn long_sentences_are_broken_at_blanks_and_long_words_are_not() {
        let word = "a".repeat(200);
        let mut text = String::new();
        paragraph(&mut text, "  x", &format!("{} {word} b", "word ".repeat(30)));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH || line.contains(&word)), "{text}");
        assert!(text.contains(&word));
    }
}

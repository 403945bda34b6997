//! One question: its steps, each with its mark, its sentence and what was seen.
use super::super::html::Html;
use crate::destinations::Destination;
use crate::verdict::{Question, Step, StepResult, Verdict};

/// Rows of a table; more are for the JSON.
const MOST_ROWS: usize = 500;

/// A question's place on the page, and its name.
fn place(question: Question) -> (&'static str, &'static str) {
    match question {
        Question::Machine => ("question-machine", "Machine"),
        Question::Policy => ("question-policy", "Policy"),
        Question::Log => ("question-log", "Log"),
    }
}

/// The three answers, in a line.
pub(super) fn answers(html: &mut Html, verdict: &Verdict) {
    html.markup("<ul class=\"answers\">");
    for question in Question::ALL {
        let (id, name) = place(question);
        html.markup("<li><a href=\"#").markup(id).markup("\">").markup(name).markup("</a> ");
        Answer::of(verdict, question).mark(html);
        html.markup("</li>");
    }
    html.markup("</ul>");
}

/// A question with all its steps.
pub(super) fn question(html: &mut Html, verdict: &Verdict, question: Question) {
    let answer = Answer::of(verdict, question);
    let (id, name) = place(question);
    html.markup("<section class=\"question\" id=\"").markup(id).markup("\"><h2>").markup(name).markup(" ");
    answer.mark(html);
    html.markup("</h2><p class=\"asks\">");
    let asks = question.asks();
    html.text(&asks[..1].to_uppercase()).text(&asks[1..]).markup("</p>");
    if answer == Answer::Unproven {
        html.markup("<p class=\"unproven\">What follows is the word of a machine that nobody vouches for.</p>");
    }
    if question == Question::Policy && !verdict.destinations.is_empty() {
        destinations(html, &verdict.destinations);
    }
    let mut steps = verdict.about(question).peekable();
    if steps.peek().is_none() {
        html.markup("<p class=\"quiet\">Nothing was looked at: nothing attested says what to look at.</p>");
    } else {
        html.markup("<ol class=\"steps\">");
        for one in steps {
            step(html, one);
        }
        html.markup("</ol>");
    }
    html.markup("</section>");
}

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Holds,
    Fails,
    Open,
    /// Its steps hold, and rest on what a machine says whose own do not.
    Unproven,
}

impl Answer {
    fn of(verdict: &Verdict, question: Question) -> Self {
        let worst = |question| {
            let any = |result| verdict.about(question).any(|step| step.result == result);
            if any(StepResult::Fail) {
                Self::Fails
            } else if any(StepResult::NotChecked) || verdict.about(question).next().is_none() {
                Self::Open
            } else {
                Self::Holds
            }
        };
        match worst(question) {
            Self::Holds if worst(Question::Machine) != Self::Holds => Self::Unproven,
            answer => answer,
        }
    }

    fn mark(self, html: &mut Html) {
        let (class, mark) = match self {
            Self::Holds => ("pass", "holds"),
            Self::Fails => ("fail", "fails"),
            Self::Open => ("not-checked", "not answered"),
            Self::Unproven => ("skipped", "unproven"),
        };
        html.markup("<span class=\"mark ").markup(class).markup("\">").markup(mark).markup("</span>");
    }
}

fn step(html: &mut Html, step: &Step) {
    let (class, mark) = match step.result {
        StepResult::Pass => ("pass", "pass"),
        StepResult::Fail => ("fail", "fail"),
        StepResult::NotChecked => ("not-checked", "not checked"),
        StepResult::Skipped => ("skipped", "skipped"),
    };
    html.markup("<li class=\"step\" id=\"").text(step.step.name()).markup("\"><span class=\"mark ").markup(class);
    html.markup("\">").markup(mark).markup("</span><div><h3>").text(step.step.name()).markup("</h3>");
    let mut lines = step.says.lines();
    html.markup("<p>").text(lines.next().unwrap_or_default()).markup("</p>");
    // Differences: one line each.
    let rest: Vec<&str> = lines.collect();
    if !rest.is_empty() {
        html.markup("<pre class=\"difference\">");
        for line in rest.iter().take(MOST_ROWS) {
            html.text(line).markup("\n");
        }
        more(html, rest.len());
        html.markup("</pre>");
    }
    for note in step.notes.iter().take(MOST_ROWS) {
        html.markup("<p class=\"note\">Note: ").text(note).markup("</p>");
    }
    if !step.observed.is_empty() {
        html.markup("<details");
        html.markup(if step.result == StepResult::Fail { " open>" } else { ">" });
        html.markup("<summary>What was seen</summary><dl>");
        for observed in step.observed.iter().take(MOST_ROWS) {
            html.markup("<dt>").text(&observed.name).markup("</dt><dd>").text(&observed.value).markup("</dd>");
        }
        html.markup("</dl>");
        more(html, step.observed.len());
        html.markup("</details>");
    }
    html.markup("</div></li>");
}

fn destinations(html: &mut Html, rows: &[Destination]) {
    html.markup("<h3 class=\"can\">This deployment can send data to:</h3><div class=\"wide\">");
    html.markup("<table class=\"destinations\"><thead><tr><th>who</th><th>where</th><th>how</th></tr></thead><tbody>");
    for row in rows.iter().take(MOST_ROWS) {
        html.markup("<tr><td>").text(&row.who).markup("</td><td>").text(&row.to).markup("</td><td>").text(&row.how);
        html.markup(if row.how.is_empty() || row.limits.is_empty() { "" } else { "; " });
        html.text(&row.limits).markup("</td></tr>");
    }
    html.markup("</tbody></table></div>");
    more(html, rows.len());
}

fn more(html: &mut Html, all: usize) {
    if all > MOST_ROWS {
        html.markup("<p class=\"quiet\">And ").number((all - MOST_ROWS) as u64).markup(" more, in the JSON.</p>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::StepId;

    #[test]
    fn policy_and_log_prove_nothing_where_the_machine_is_not_genuine() {
        let answers = |machine: Step| {
            let steps = vec![machine, Step::pass(StepId::Policy, ""), Step::skipped(StepId::Witnesses, "")];
            let verdict = Verdict::new(0, false, steps);
            Question::ALL.map(|question| Answer::of(&verdict, question))
        };
        assert_eq!(answers(Step::pass(StepId::Quote, "")), [Answer::Holds; 3]);
        let unproven = |machine| [machine, Answer::Unproven, Answer::Unproven];
        assert_eq!(answers(Step::fail(StepId::Quote, "")), unproven(Answer::Fails));
        assert_eq!(answers(Step::not_checked(StepId::Tcb, "")), unproven(Answer::Open));
    }

    #[test]
    fn a_question_without_steps_is_open() {
        let verdict = Verdict::new(0, false, vec![Step::pass(StepId::Quote, "")]);
        assert_eq!(Answer::of(&verdict, Question::Log), Answer::Open);
    }
}

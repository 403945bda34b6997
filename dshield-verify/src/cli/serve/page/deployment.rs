//! The page about one deployment: its verdict, the three questions, what was judged, and how to do without this page.
use super::super::badge::span;
use super::super::html::Html;
use super::super::standing::{Moment, Standing};
use super::super::watch::{Finding, Known, Watch};
use super::{Root, foot, head, moment, steps, title};
use crate::time;
use crate::verdict::{Outcome, Question, Step, StepResult, Verdict};

/// The page.
pub(in crate::cli::serve) fn deployment(watch: &Watch) -> String {
    let (configured, known) = (watch.configured(), watch.known());
    let (standing, age) = known.standing(&Moment::now(), configured.max_age);
    let fresh = known.finding.is_some() && standing != Standing::Development && age < configured.max_age;
    // Without a script: once this verdict is too old; soon, where one is awaited.
    let reload = configured.max_age.saturating_sub(age).as_secs().clamp(5, 300);

    let mut html = Html::default();
    head(&mut html, configured.name.as_str(), Root::Above);
    html.markup("<noscript><meta http-equiv=\"refresh\" content=\"").number(reload).markup("\"></noscript>");
    html.markup("<script src=\"../assets/page.js\" defer></script></head><body class=\"").text(standing.name());
    html.markup(if fresh { " fresh" } else { "" });
    html.markup("\" data-age-ms=\"").number(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    html.markup("\" data-max-age-ms=\"").number(u64::try_from(configured.max_age.as_millis()).unwrap_or(u64::MAX));
    html.markup("\">");
    if standing == Standing::Development {
        html.markup("<div class=\"hazard\" role=\"alert\"><strong>DEVELOPMENT</strong><span>This proves nothing: ");
        html.markup("its quote is signed by a test key that anybody can make.</span></div>");
    }
    html.markup("<main><header><p class=\"brand\"><a href=\"../\">D-Shield verification</a></p><h1>");
    html.text(configured.name.as_str()).markup("</h1><p class=\"url\">").text(&configured.public_url);
    html.markup("</p></header>");
    verdict(&mut html, watch, &known, standing);
    yourself(&mut html, watch);
    if let Some(finding) = &known.finding {
        for question in Question::ALL {
            steps::question(&mut html, &finding.verdict, question);
        }
        inputs(&mut html, watch, finding);
    }
    badge(&mut html, watch);
    foot(&mut html);
    html.finish()
}

/// The answer in a few words, and from when it is.
fn verdict(html: &mut Html, watch: &Watch, known: &Known, standing: Standing) {
    let configured = watch.configured();
    html.markup("<section class=\"verdict\" id=\"verdict\" aria-live=\"polite\"><h2>");
    // The script shows the second one as soon as this page is too old.
    html.markup("<span data-while=\"young\">").text(title(standing)).markup("</span>");
    if standing == Standing::Verified {
        html.markup("<span data-while=\"old\" hidden>").text(title(Standing::Outdated)).markup("</span>");
    }
    html.markup("</h2>");
    if let Some(finding) = &known.finding {
        because(html, &finding.verdict, standing);
        steps::answers(html, &finding.verdict);
        let until = finding.began.wall.saturating_add(configured.max_age.as_secs());
        html.markup("<p class=\"when\">Judged <time datetime=\"").text(&time::rfc3339(finding.began.wall));
        html.markup("\">").text(&moment(finding.began.wall)).markup("</time><span id=\"age\"></span>. ");
        html.markup("A verdict counts for ").text(&span(configured.max_age)).markup(" here: this one until ");
        html.text(&moment(until)).markup(".</p>");
        html.markup("<p class=\"old\" data-while=\"old\"");
        html.markup(if standing == Standing::Outdated { ">" } else { " hidden>" });
        html.markup("It is older than that, and says nothing about now.</p>");
    } else if known.failure.is_none() {
        html.markup("<p>The first look is under way.</p>");
    }
    if let Some(failure) = &known.failure {
        html.markup("<p class=\"failure\">The last try, ").text(&moment(failure.began.wall));
        html.markup(", came to no verdict: ").text(&failure.why).markup("</p>");
    }
    html.markup("<form method=\"post\" action=\"").text(configured.name.as_str()).markup("/look\">");
    html.markup("<button>Look again now</button></form></section>");
}

/// Why it is so.
fn because(html: &mut Html, verdict: &Verdict, standing: Standing) {
    let named = |result| -> Vec<&Step> { verdict.steps.iter().filter(|step| step.result == result).collect() };
    let failed = named(StepResult::Fail);
    match standing {
        Standing::Verified => {
            html.markup("<p data-while=\"young\">Everything that was to be checked holds.");
            let skipped = named(StepResult::Skipped);
            if !skipped.is_empty() {
                html.markup(" Left out, and not needed for this verdict: ");
                links(html, &skipped);
                html.markup(".");
            }
            html.markup("</p>");
        }
        Standing::Development => {
            html.markup(
                "<p>Whatever the steps below say, nobody vouches for any of it. It shows what a verdict looks ",
            );
            html.markup("like, and is none.</p>");
        }
        Standing::NotVerified => {
            html.markup("<p>").markup(match verdict.outcome {
                Outcome::Attestation => "It is not a genuine machine, or not this one",
                Outcome::Policy => "What runs there is not what is expected",
                Outcome::Log => "The record of where data went does not hold",
                Outcome::Stale => "What it shows is old: replayed, or rolled back",
                _ => "Something does not hold",
            });
            html.markup(". Failed: ");
            links(html, &failed);
            html.markup(".</p>");
        }
        Standing::NotChecked => {
            let not_checked = named(StepResult::NotChecked);
            let (word, steps) = match failed.is_empty() {
                true => ("Needed for a verdict, and not checked: ", &not_checked),
                false => ("Not understood: ", &failed),
            };
            html.markup("<p>").markup(word);
            links(html, steps);
            html.markup(".</p>");
        }
        Standing::Outdated | Standing::Nothing => {}
    }
}

fn links(html: &mut Html, steps: &[&Step]) {
    for (index, step) in steps.iter().enumerate() {
        html.markup(if index > 0 { ", " } else { "" });
        html.markup("<a href=\"#").text(step.step.name()).markup("\">").text(step.step.name()).markup("</a>");
    }
}

/// The way around this page.
fn yourself(html: &mut Html, watch: &Watch) {
    let configured = watch.configured();
    html.markup("<section class=\"yourself\" id=\"yourself\"><h2>Do not take this page’s word for it</h2>");
    html.markup("<p>This page is as trustworthy as the server that serves it. Repeat it yourself: take ");
    html.markup("<code>dshield-verify</code> from where you trust it, and the expectations from here, once you have ");
    html.markup("compared them with what you know.</p>");
    command(html, &format!("dshield-verify {} --expect expect.toml", word(&configured.public_url)));
    html.markup("<p class=\"files\">");
    for (index, document) in configured.documents.iter().enumerate() {
        html.markup("<a download=\"").text(document.name.rsplit('/').next().unwrap_or_default());
        html.markup("\" href=\"../v1/deployments/").text(configured.name.as_str()).markup("/expect/");
        html.number(index as u64).markup("\">").text(&document.name).markup("</a> ");
    }
    html.markup("</p>");
    if configured.documents.len() > 1 {
        html.markup(
            "<p class=\"quiet\"><code>expect.toml</code> names the others: keep each under its name, beside it.</p>",
        );
    }
    html.markup("</section>");
}

/// Everything that the verdict was made of.
fn inputs(html: &mut Html, watch: &Watch, finding: &Finding) {
    let configured = watch.configured();
    let name = configured.name.as_str();
    html.markup("<section id=\"inputs\"><h2>What was judged</h2><table class=\"inputs\"><tbody>");
    let mut row = |path: &'static str, file: &str, size: Option<usize>, what: &'static str| {
        html.markup("<tr><td><a href=\"../v1/deployments/")
            .text(name)
            .markup("/")
            .markup(path)
            .markup("\">")
            .text(file);
        html.markup("</a></td><td>").markup(what);
        if let Some(size) = size {
            html.markup(" <span class=\"quiet\">").number(size as u64).markup(" bytes</span>");
        }
        html.markup("</td></tr>");
    };
    let evidence = format!("evidence-{name}.json");
    row("evidence", &evidence, Some(finding.evidence.len()), "quote, statement, policy, event log and collateral");
    if let Some(note) = &finding.checkpoint {
        row("checkpoint", "checkpoint", Some(note.len()), "the log’s head, signed");
    }
    row("expect", "expect.toml", None, "what was expected");
    row("verdict", "verdict", None, "this verdict as JSON");
    html.markup("</tbody></table>");
    if let Some(nonce) = finding.nonce {
        html.markup("<p>To judge the very same evidence, as it was then, without asking anybody (machine and policy; ");
        html.markup("the log is at the deployment):</p>");
        let at = time::rfc3339(finding.began.wall);
        command(html, &format!("dshield-verify {evidence} --offline --at {at} --nonce {nonce} --expect expect.toml"));
    }
    html.markup("</section>");
}

fn badge(html: &mut Html, watch: &Watch) {
    let name = watch.configured().name.as_str();
    html.markup("<section id=\"badge\"><h2>Badge</h2><p><img alt=\"D-Shield badge\" src=\"../v1/deployments/");
    html.text(name).markup("/badge.svg\"></p><p>In Markdown, with this server’s own address:</p><pre><code>");
    let page = format!("/deployments/{name}");
    html.text(&format!("[![D-Shield](https://THIS-SERVER/v1{page}/badge.svg)](https://THIS-SERVER{page})"));
    html.markup("</code></pre></section>");
}

fn command(html: &mut Html, line: &str) {
    html.markup("<div class=\"command\"><pre><code>").text(line);
    html.markup("</code></pre><button type=\"button\" class=\"copy\" hidden>Copy</button></div>");
}

/// `text` as one word of a shell's line.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.-_~%@,+".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_word_of_the_command() {
        assert_eq!(word("https://a.example:8080/x"), "https://a.example:8080/x");
        assert_eq!(word("https://[::1]:8080"), "'https://[::1]:8080'");
        assert_eq!(word("https://a/;rm'x"), "'https://a/;rm'\\''x'");
    }
}

//! Pages: what is known flows in, HTML flows out that says everything without a script.
//!
//! The script only counts the age on, and takes back what a page that stays open must not go on saying.
mod deployment;
mod steps;

use super::Service;
use super::html::Html;
use super::standing::{Moment, Standing};
use crate::time;

pub(super) use self::deployment::deployment;

/// All deployments, and what each verdict is worth.
pub(super) fn index(service: &Service) -> String {
    let mut html = Html::default();
    head(&mut html, "Deployments", Root::Here);
    // It has no script to take back what gets too old.
    let now = Moment::now();
    let first = service.watches.values().map(|watch| {
        let (_, age) = watch.known().standing(&now, watch.configured().max_age);
        watch.configured().max_age.saturating_sub(age).as_secs()
    });
    html.markup("<meta http-equiv=\"refresh\" content=\"").number(first.min().unwrap_or(60).clamp(5, 60));
    html.markup("\"></head><body><main><header><p class=\"brand\">D-Shield verification</p>");
    html.markup("<h1>Deployments</h1></header>");
    html.markup(
        "<p>Each is a server that says it runs D-Shield. This service asks it for evidence, again and again, and ",
    );
    html.markup("judges what it answers. Each page shows how, and the command to do it yourself.</p>");
    if service.watches.is_empty() {
        html.markup("<p class=\"quiet\">No deployment is configured. Evidence can be posted to ");
        html.markup("<code>/v1/verify</code>.</p>");
    } else {
        html.markup("<ul class=\"deployments\">");
    }
    for watch in service.watches.values() {
        let (configured, known) = (watch.configured(), watch.known());
        let (standing, _) = known.standing(&now, configured.max_age);
        html.markup("<li class=\"").text(standing.name()).markup("\"><a href=\"deployments/");
        html.text(configured.name.as_str()).markup("\">").text(configured.name.as_str());
        html.markup("</a> <span class=\"standing\">").text(title(standing)).markup("</span><span class=\"url\">");
        html.text(&configured.public_url).markup("</span>");
        if let Some(finding) = &known.finding {
            html.markup("<span class=\"when\">judged ").text(&moment(finding.began.wall)).markup("</span>");
        }
        html.markup("</li>");
    }
    if !service.watches.is_empty() {
        html.markup("</ul>");
    }
    foot(&mut html);
    html.finish()
}

/// Where this service's root is, seen from a page: pages work below any path of what is in front.
#[derive(Clone, Copy)]
enum Root {
    Here,
    Above,
}

impl Root {
    fn path(self) -> &'static str {
        match self {
            Self::Here => "",
            Self::Above => "../",
        }
    }
}

/// The beginning, up to what else belongs into `<head>`.
fn head(html: &mut Html, title: &str, root: Root) {
    html.markup("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.markup("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.markup("<meta name=\"color-scheme\" content=\"light dark\"><title>").text(title).markup(" · D-Shield</title>");
    html.markup("<link rel=\"icon\" type=\"image/svg+xml\" href=\"").markup(root.path()).markup("assets/icon.svg\">");
    html.markup("<link rel=\"stylesheet\" href=\"").markup(root.path()).markup("assets/style.css\">");
}

fn foot(html: &mut Html) {
    html.markup("<footer>dshield-verify ").markup(env!("CARGO_PKG_VERSION"));
    html.markup(". This page is as trustworthy as the server that serves it.</footer></main></body></html>\n");
}

/// What a verdict is worth, in as many words as fit on a label.
fn title(standing: Standing) -> &'static str {
    match standing {
        Standing::Verified => "Verified",
        Standing::Outdated => "Out of date",
        Standing::NotVerified => "Not verified",
        Standing::NotChecked => "Could not be judged",
        Standing::Development => "DEVELOPMENT, proves nothing",
        Standing::Nothing => "No verdict yet",
    }
}

/// `2026-11-28 07:12:33 UTC`.
fn moment(seconds: u64) -> String {
    let text = time::rfc3339(seconds);
    match text.strip_suffix('Z') {
        Some(moment) => format!("{} UTC", moment.replacen('T', " ", 1)),
        None => text,
    }
}

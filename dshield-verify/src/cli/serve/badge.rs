//! A badge: what a verdict is worth flows in, a picture flows out.
//!
//! A picture goes on saying what it said when it was fetched, in mail or in a cache that obeys nobody. So it says when that
//! was and for how long it counts, and it is green only for a verdict that still does.
use std::time::Duration;

use super::html::Html;
use super::standing::Standing;
use crate::time;

const LABEL: &str = "D-Shield";
const HEIGHT: u64 = 20;

/// The picture, as SVG without styles or scripts. `judged` is the moment of the verdict, in seconds since 1970.
pub(super) fn svg(standing: Standing, judged: u64, max_age: Duration) -> String {
    let when = minute(judged);
    let (says, colour, ink) = match standing {
        Standing::Verified => (format!("verified {when}, valid {}", span(max_age)), "#1a7f37", "#fff"),
        Standing::Outdated => (format!("outdated: last verified {when}"), "#9a6700", "#fff"),
        Standing::NotVerified => (format!("NOT verified {when}"), "#b42318", "#fff"),
        Standing::NotChecked => (format!("could not be judged {when}"), "#57606a", "#fff"),
        Standing::Development => ("DEVELOPMENT, proves nothing".to_owned(), "#ffc400", "#000"),
        Standing::Nothing => ("no verdict yet".to_owned(), "#57606a", "#fff"),
    };
    let (left, right) = (width(LABEL) + 12, width(&says) + 14);
    let all = left + right;
    let mut svg = Html::default();
    svg.markup("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"").number(all);
    svg.markup("\" height=\"").number(HEIGHT);
    svg.markup("\" role=\"img\" aria-label=\"").text(LABEL).markup(": ").text(&says);
    svg.markup("\"><title>").text(LABEL).markup(": ").text(&says).markup("</title>");
    svg.markup("<clipPath id=\"r\"><rect rx=\"3\" width=\"").number(all);
    svg.markup("\" height=\"").number(HEIGHT).markup("\"/></clipPath><g clip-path=\"url(#r)\">");
    svg.markup("<rect fill=\"#24292f\" width=\"").number(left).markup("\" height=\"").number(HEIGHT).markup("\"/>");
    svg.markup("<rect fill=\"").text(colour).markup("\" x=\"").number(left).markup("\" width=\"").number(right);
    svg.markup("\" height=\"").number(HEIGHT).markup("\"/></g>");
    svg.markup("<g font-family=\"Verdana,DejaVu Sans,Geneva,sans-serif\" font-size=\"11\">");
    for (text, at, ink) in [(LABEL, 6, "#fff"), (&says, left + 7, ink)] {
        svg.markup("<text y=\"14\" x=\"").number(at).markup("\" fill=\"").text(ink);
        // Whatever the font, it fits.
        svg.markup("\" textLength=\"").number(width(text)).markup("\" lengthAdjust=\"spacingAndGlyphs\">");
        svg.text(text).markup("</text>");
    }
    svg.markup("</g></svg>\n");
    svg.finish()
}

/// For how many seconds a cache that does not ask again may keep it: never beyond the verdict's time.
pub(super) fn keep(standing: Standing, age: Duration, max_age: Duration) -> u64 {
    match standing {
        Standing::Verified => max_age.saturating_sub(age).as_secs().min(60),
        _ => 0,
    }
}

/// `2026-11-28 07:12 UTC`.
fn minute(seconds: u64) -> String {
    let text = time::rfc3339(seconds);
    match text.get(..16) {
        Some(minute) if text.ends_with('Z') => format!("{} UTC", minute.replace('T', " ")),
        _ => text,
    }
}

/// A length of time in whole seconds, minutes or hours.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => "0 s".to_owned(),
        _ if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// About how wide a text is in Verdana of 11 pixels.
fn width(text: &str) -> u64 {
    let tenths: u64 = text
        .chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | ',' | '.' | ':' | ' ' => 38,
            'f' | 'r' | 't' | '-' => 46,
            'm' | 'w' | 'M' | 'W' => 96,
            'A'..='Z' => 78,
            _ => 68,
        })
        .sum();
    tenths.div_ceil(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Standing; 6] = [
        Standing::Verified,
        Standing::Outdated,
        Standing::NotVerified,
        Standing::NotChecked,
        Standing::Development,
        Standing::Nothing,
    ];

    #[test]
    fn only_what_is_verified_is_green_and_says_until_when() {
        for standing in ALL {
            let svg = svg(standing, 1_795_849_940, Duration::from_secs(600));
            let green = standing == Standing::Verified;
            assert_eq!(svg.contains("#1a7f37"), green, "{standing:?}: {svg}");
            assert_eq!(svg.contains(">verified 2026-11-28 07:12 UTC, valid 10 min<"), green, "{svg}");
            assert_eq!(svg.contains("DEVELOPMENT"), standing == Standing::Development, "{svg}");
        }
    }

    #[test]
    fn no_cache_keeps_green_beyond_its_time() {
        let keep = |age| keep(Standing::Verified, Duration::from_secs(age), Duration::from_secs(600));
        assert_eq!([keep(0), keep(590), keep(600), keep(700)], [60, 10, 0, 0]);
        for standing in ALL.into_iter().filter(|standing| *standing != Standing::Verified) {
            assert_eq!(super::keep(standing, Duration::ZERO, Duration::from_secs(600)), 0);
        }
    }

    #[test]
    fn times_are_said_as_people_do() {
        let said = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([said(0), said(90), said(600), said(7200)], ["0 s", "90 s", "10 min", "2 h"]);
        assert_eq!(minute(u64::MAX), format!("second {}", u64::MAX));
    }
}

//! A page that stays open, in Chromium: what it said must not outlive its time.
use std::process::{Command, Stdio};

use super::*;

/// The page once its scripts have run for `milliseconds` of its own time, and what the browser said meanwhile; nothing
/// where there is no Chromium.
async fn opened(url: String, milliseconds: u64) -> Option<(String, String)> {
    let programs = ["/usr/bin/chromium", "/usr/bin/google-chrome"];
    let Some(program) = programs.into_iter().find(|program| std::path::Path::new(program).exists()) else {
        crate::test_vectors::skipped("neither chromium nor google-chrome is in /usr/bin");
        return None;
    };
    let output = tokio::task::spawn_blocking(move || {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]);
        command.args(["--no-first-run", "--enable-logging=stderr", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--virtual-time-budget={milliseconds}")).arg(url);
        command.stdin(Stdio::null()).output().unwrap()
    });
    let output = output.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(&output.stdout), text(&output.stderr)))
}

#[tokio::test]
async fn an_open_page_takes_back_its_verdict_when_its_time_is_over() {
    let served = Served::pretending(good(), 590).await;
    let url = format!("http://{}/deployments/a", served.address);
    let Some((young, _)) = opened(url.clone(), 2_000).await else { return };
    assert!(young.contains("<body class=\"verified fresh\""), "{young}");
    assert!(young.contains("id=\"age\">, 9 min ago<"), "{young}");
    assert!(young.contains("<span data-while=\"old\" hidden=\"\">Out of date</span>"), "{young}");

    let Some((old, said)) = opened(url, 20_000).await else { return };
    assert!(old.contains("<body class=\"outdated\""), "{old}");
    assert!(old.contains("<title>Out of date: a"), "{old}");
    assert!(old.contains("<span data-while=\"young\" hidden=\"\">Verified</span>"), "{old}");
    assert!(old.contains("<span data-while=\"old\">Out of date</span>"), "{old}");
    assert!(!said.contains("CONSOLE"), "{said}");
}

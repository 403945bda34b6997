//! How often a deployment is asked, whatever strangers do.
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// So that nobody looks but when asked.
const SELDOM: &str = "max_age = \"2h\"";

/// Something at an address that counts connections, and closes them.
async fn counting() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (url, count)
}

/// A service about it, `a`, that looks.
async fn looking(url: &str, settings: &str, spacing: Duration) -> (Served, channel::Sender<()>) {
    let served = Served::with(&[("a", url)], settings, spacing).await;
    let stop = look(&served).await;
    (served, stop)
}

/// Looks until what comes back is dropped. A first look has come to no verdict when it does.
async fn look(served: &Served) -> channel::Sender<()> {
    let (stop, stopped) = channel::channel(());
    tokio::spawn(served.service.watch("a").unwrap().clone().keep_looking(stopped));
    let watch = served.service.watch("a").unwrap();
    let first = async {
        while watch.known().failure.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), first).await.expect("a first look");
    stop
}

#[tokio::test]
async fn strangers_cannot_have_a_deployment_asked_more_often_than_is_allowed() {
    let (url, count) = counting().await;
    let (served, _stop) = looking(&url, SELDOM, SPACING).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    for _ in 0..20 {
        assert_eq!(served.ask(Method::POST, "/v1/deployments/a/look", "").await.status, 503);
        assert_eq!(served.ask(Method::POST, "/deployments/a/look", "").await.status, 303);
        served.get("/v1/deployments/a/verdict").await;
        served.badge().await;
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_asks_for_a_look_that_is_due_gets_it() {
    let (url, count) = counting().await;
    let (served, _stop) = looking(&url, SELDOM, Duration::ZERO).await;
    let got = served.ask(Method::POST, "/v1/deployments/a/look", "").await;
    assert!(got.text.contains("broke off"), "{}", got.text);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    let got = served.ask(Method::POST, "/deployments/a/look", "").await;
    assert_eq!((got.status, got.headers["location"].to_str().unwrap()), (303, "../a"));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_look_without_a_verdict_leaves_the_last_one_to_get_old() {
    let (url, _) = counting().await;
    let (served, _stop) = looking(&url, SELDOM, SPACING).await;
    let (began, evidence) = (Moment::now(), Bytes::from_static(b"{}"));
    let finding = Finding { verdict: good(), evidence, nonce: None, checkpoint: None, began };
    served.service.watch("a").unwrap().pretend(finding);
    assert_eq!(served.standing().await, "verified");
    let page = served.page().await;
    assert!(page.contains("came to no verdict: the agent at http://127.0.0.1"), "{page}");
}

#[tokio::test]
async fn strangers_are_shown_the_public_url_alone() {
    let (url, _) = counting().await;
    let settings = "max_age = \"2h\"\npublic_url = \"https://public.example\"";
    let (served, _stop) = looking(&url, settings, SPACING).await;
    let text = served.get("/v1/deployments").await.text + &served.page().await;
    assert!(text.contains("the agent at https://public.example broke off"), "{text}");
    assert!(!text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn strangers_learn_no_paths_of_this_machine() {
    let (url, _) = counting().await;
    let served = Served::with(&[("a", &url)], "", SPACING).await;
    let seen = crate::record::Seen { origin: String::new(), size: 1, root: String::new() };
    served.how.memory.keep(&url, seen, 0).unwrap();
    for file in std::fs::read_dir(served.folder.path().join("state")).unwrap() {
        std::fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    let _stop = look(&served).await;
    let text = served.get("/v1/deployments").await.text + &served.page().await;
    assert!(text.contains("its own output says why"), "{text}");
    assert!(!text.contains(served.folder.path().to_str().unwrap()), "{text}");
}

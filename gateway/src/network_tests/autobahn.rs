//! The fuzzing client of the Autobahn test suite, against the echo. It needs a Python 2.7:
//! `make autobahn` gets the suite.

use std::{collections::BTreeMap, env, fs};

use serde_json::{Value, json};

use super::Edge;

/// What a case may end with.
const GOOD: [&str; 3] = ["OK", "INFORMATIONAL", "NON-STRICT"];

#[tokio::test]
#[ignore = "needs NATTER_TEST_WSTEST, the path of wstest"]
async fn autobahn_finds_nothing_failed_and_nothing_unclean() {
    let wstest = env::var("NATTER_TEST_WSTEST").expect("NATTER_TEST_WSTEST is the path of wstest");
    let edge = Edge::start(|config| {
        // Its messages are larger than chat, and come without a pause.
        config.limits.frame_bytes = 1 << 20;
        (config.limits.frames_per_second, config.limits.frames_burst) = (1_000_000, 1_000_000);
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let spec = json!({
        "outdir": folder.path().join("reports"),
        "servers": [{"agent": "natter", "url": format!("ws://{}/echo", edge.addr)}],
        "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let file = folder.path().join("spec.json");
    fs::write(&file, spec.to_string()).unwrap();
    let status = tokio::process::Command::new(wstest).args(["--mode", "fuzzingclient", "--spec"]).arg(&file).status().await.unwrap();
    assert!(status.success(), "{status}");
    let report = fs::read_to_string(folder.path().join("reports/index.json")).unwrap();
    let report: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&report).unwrap();
    let cases = &report["natter"];
    let mut counts = BTreeMap::new();
    for case in cases.values() {
        *counts.entry((case["behavior"].as_str().unwrap(), case["behaviorClose"].as_str().unwrap())).or_insert(0) += 1;
    }
    println!("{} cases; behaviour and close: {counts:?}", cases.len());
    let bad = |case: &&Value| [&case["behavior"], &case["behaviorClose"]].iter().any(|word| !GOOD.contains(&word.as_str().unwrap()));
    let bad: Vec<_> = cases.iter().filter(|(_, case)| bad(case)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(cases.len() > 240, "only {} cases", cases.len());
}

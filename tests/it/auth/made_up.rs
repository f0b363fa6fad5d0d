//! Calls made up from the API's document, by schemathesis: no answer that the document does not have, no failure.

use std::process::Command;

use super::{BOOTSTRAP, Fixture};
use crate::harness::{Stack, is_long};

#[test]
fn made_up_calls_get_documented_answers() {
    let (stack, _shared) = Stack::shared();
    let fixture = Fixture::with(stack, |group| group.set("FLAGSTREAM_UNLEASH__WEBHOOK_SECRET", BOOTSTRAP));
    let service = fixture.start("one");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/auth/made_up.py");
    let examples = if is_long() { "300" } else { "12" };
    let output = Command::new("python3")
        .args([script, &service.url, BOOTSTRAP, examples])
        .env("PYTHONPATH", &stack.python_path)
        .current_dir(fixture.group.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

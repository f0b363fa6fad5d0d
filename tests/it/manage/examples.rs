//! The examples of docs/api.md, in their order, on a new instance: what is written there is what is answered.

use serde_json::Value;

use crate::harness::{Dev, OpenApiValidator, call, temporary_folder};

const DOCUMENT: &str = include_str!("../../../docs/api.md");
const SECTION: &str = "### Management over HTTP";

/// Differ with every run; the rest of an answer does not.
const VARYING: [&str; 7] = ["id", "created_at", "updated_at", "changed_at", "killed_at", "version", "total"];

#[derive(Debug)]
struct Example {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    status: u16,
    answered: Vec<(String, String)>,
    answer: Option<Value>,
}

#[test]
fn management_is_as_documented() {
    let folder = temporary_folder();
    let dev = Dev::start(folder.path());
    let contract = OpenApiValidator::of(&dev.url);
    let examples = examples();
    assert!(examples.len() >= 9, "{}", examples.len());
    for example in examples {
        let mut headers: Vec<_> =
            example.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.push(("content-type", "application/json"));
        let url = format!("{}{}", dev.url, example.path);
        let answer = call(&example.method, &url, &headers, example.body.as_bytes());
        contract.check(&example.method, super::documented(&example.path), &answer);
        assert_eq!(answer.status, example.status, "{example:?}: {answer:?}");
        for (name, value) in &example.answered {
            assert_eq!(answer.header(name), value, "{example:?}");
        }
        match &example.answer {
            Some(documented) => same(documented, &answer.json(), ""),
            None => assert_eq!(answer.body, "", "{example:?}"),
        }
    }
}

fn examples() -> Vec<Example> {
    let (_, section) = DOCUMENT.split_once(SECTION).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let blocks = section.split("```http\n").skip(1);
    blocks.map(|block| read(block.split("```").next().unwrap())).collect()
}

/// Reads a request (request line, headers, a blank line, a body) and its answer, whose first line is the status.
fn read(block: &str) -> Example {
    let parts: Vec<&str> = block.trim().split("\n\n").collect();
    let status =
        parts.iter().position(|part| part.bytes().take(3).all(|byte| byte.is_ascii_digit())).unwrap();
    let (line, headers) = head(parts[0]);
    let (method, path) = line.split_once(' ').unwrap();
    let (code, answered) = head(parts[status]);
    Example {
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
        body: parts[1..status].concat(),
        status: code.parse().unwrap(),
        answered,
        answer: parts.get(status + 1).map(|body| serde_json::from_str(body).unwrap()),
    }
}

fn head(text: &str) -> (&str, Vec<(String, String)>) {
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    (first, headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect())
}

/// Every member, no other; and of what varies the type.
fn same(documented: &Value, answered: &Value, path: &str) {
    match (documented, answered) {
        (Value::Object(documented), Value::Object(answered)) => {
            let names = |members: &serde_json::Map<String, Value>| {
                let mut names: Vec<_> = members.keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(documented), names(answered), "{path}");
            for (name, value) in documented {
                if !VARYING.contains(&name.as_str()) {
                    same(value, &answered[name], &format!("{path}.{name}"));
                } else {
                    assert_eq!(value.is_string(), answered[name].is_string(), "{path}.{name}");
                }
            }
        }
        (Value::Array(documented), Value::Array(answered)) => {
            assert_eq!(documented.len(), answered.len(), "{path}");
            documented
                .iter()
                .zip(answered)
                .for_each(|(documented, answered)| same(documented, answered, path));
        }
        _ => assert_eq!(documented, answered, "{path}"),
    }
}

//! Definitions for server SDKs, prepared once per change: each flag's text, the whole body, its ETag, and its gzip form.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::flag::{CompiledFlag, Source};
use crate::message::definition::Definition;

use super::express::{self, FOR_EVER, Parent};
use super::flag_sets::Selected;
use super::selection::Selection;

/// Definitions of one selection at one moment.
#[derive(Debug)]
pub struct Features {
    pub selected: Arc<Selected>,
    /// Definitions by name.
    pub items: Vec<Arc<Item>>,
    /// Flags that Unleash's format cannot express, by name, with the reason.
    pub omitted: Vec<(Arc<str>, &'static str)>,
    /// Time from which the definitions must be prepared again although no flag changes, in milliseconds since 1970.
    pub valid_until_ms: i64,
    body: OnceLock<Prepared>,
}

/// Definition of one flag.
#[derive(Debug)]
pub struct Item {
    pub flag: Arc<CompiledFlag>,
    /// The flag as JSON in Unleash's format.
    pub text: Box<str>,
    valid_until_ms: i64,
    /// Whether the text depends on no other flag.
    is_independent: bool,
}

/// Body of a response in the forms in which it is sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub plain: Bytes,
    pub gzip: Bytes,
    /// Strong entity tag, with quotes.
    pub etag: String,
}

impl Features {
    /// Prepares the definitions of the selected flags. Texts that are still valid are taken from `before`.
    pub fn prepare(selected: Arc<Selected>, now_ms: i64, before: Option<&Self>) -> Self {
        let known: HashMap<&str, &Arc<Item>> =
            before.into_iter().flat_map(|it| &it.items).map(|item| (&*item.flag.name, item)).collect();
        let mut builder = Builder { now_ms, known, items: HashMap::new(), omitted: Vec::new() };
        let (children, others): (Vec<_>, Vec<_>) =
            selected.flags.iter().partition(|flag| flag.parents().next().is_some());
        // Parents first: whether a child can be expressed depends on them.
        others.into_iter().for_each(|flag| builder.add(flag));
        let parents: std::collections::HashSet<Arc<str>> = builder.items.keys().cloned().collect();
        let parent = |name: &str| if parents.contains(name) { Parent::Simple } else { Parent::Other };
        children.into_iter().for_each(|flag| builder.add_child(flag, &parent));
        let Builder { mut items, mut omitted, .. } = builder;
        omitted.sort_unstable();
        let items: Vec<_> = selected.flags.iter().filter_map(|flag| items.remove(&flag.name)).collect();
        let valid_until_ms = items.iter().map(|item| item.valid_until_ms).min().unwrap_or(FOR_EVER);
        Self { selected, items, omitted, valid_until_ms, body: OnceLock::new() }
    }

    /// The response body with all definitions. Built on the first call.
    pub fn body(&self, selection: &Selection) -> &Prepared {
        self.body.get_or_init(|| {
            let plain = write_body(&self.items, selection, None);
            Prepared { gzip: gzip(&plain.0), plain: plain.0.into(), etag: plain.1 }
        })
    }

    /// A response body with the definitions that satisfy the caller's own filter.
    pub fn filtered(&self, selection: &Selection, prefix: Option<&str>, projects: &[String]) -> Prepared {
        let is_wanted = |item: &&Arc<Item>| {
            let project = item.flag.summary().project.as_deref();
            prefix.is_none_or(|prefix| item.flag.name.starts_with(prefix))
                && (projects.is_empty()
                    || project.is_some_and(|project| projects.iter().any(|wanted| wanted == project)))
        };
        let items: Vec<_> = self.items.iter().filter(is_wanted).cloned().collect();
        let (plain, etag) = write_body(&items, selection, prefix);
        Prepared { gzip: gzip(&plain), plain: plain.into(), etag }
    }

    /// The definition of one flag.
    pub fn find(&self, name: &str) -> Option<&Arc<Item>> {
        let found = self.items.binary_search_by(|item| (*item.flag.name).cmp(name)).ok()?;
        self.items.get(found)
    }
}

struct Builder<'b> {
    now_ms: i64,
    known: HashMap<&'b str, &'b Arc<Item>>,
    items: HashMap<Arc<str>, Arc<Item>>,
    omitted: Vec<(Arc<str>, &'static str)>,
}

impl Builder<'_> {
    fn add(&mut self, flag: &Arc<CompiledFlag>) {
        self.add_child(flag, &|_| Parent::Other);
    }

    fn add_child(&mut self, flag: &Arc<CompiledFlag>, parent: &dyn Fn(&str) -> Parent) {
        let known = self.known.get(&*flag.name).filter(|item| {
            item.is_independent && Arc::ptr_eq(&item.flag, flag) && self.now_ms < item.valid_until_ms
        });
        let item = match known {
            Some(known) => Ok(Arc::clone(known)),
            None => item(flag, self.now_ms, parent).map(Arc::new),
        };
        match item {
            Ok(item) => drop(self.items.insert(Arc::clone(&flag.name), item)),
            Err(reason) => self.omitted.push((Arc::clone(&flag.name), reason)),
        }
    }
}

fn item(
    flag: &Arc<CompiledFlag>,
    now_ms: i64,
    parent: &dyn Fn(&str) -> Parent,
) -> Result<Item, &'static str> {
    let unreadable = "its definition cannot be read";
    let definition: Definition =
        flag.record.as_ref().and_then(|record| serde_json::from_slice(record).ok()).ok_or(unreadable)?;
    let raw = definition.definition.get();
    let (flag, is_killed) = (Arc::clone(flag), flag.is_killed(now_ms));
    // A temporary kill switch ends by itself.
    let killed_until = if is_killed { flag.killed_until().unwrap_or(FOR_EVER) } else { FOR_EVER };
    let may_have_extensions = definition.source == Source::Local || flag.unusable_because().is_some();
    if !is_killed && !may_have_extensions {
        return Ok(Item { flag, text: raw.into(), valid_until_ms: FOR_EVER, is_independent: true });
    }
    let feature: Value = serde_json::from_str(raw).map_err(|_| unreadable)?;
    if is_killed {
        let text = express::killed(feature).to_string().into();
        return Ok(Item { flag, text, valid_until_ms: killed_until, is_independent: true });
    }
    let is_independent = flag.parents().next().is_none();
    let expressed = express::feature(feature, now_ms, parent)?;
    let text = expressed.feature.to_string().into();
    Ok(Item { flag, text, valid_until_ms: expressed.valid_until_ms, is_independent })
}

/// Writes a response body. Its tag depends on the definitions and the query only, so that all instances return the same.
fn write_body(items: &[Arc<Item>], selection: &Selection, prefix: Option<&str>) -> (Vec<u8>, String) {
    let bytes: usize = items.iter().map(|item| item.text.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 512);
    body.extend_from_slice(br#"{"version":2,"features":["#);
    write_texts(&mut body, items);
    let mut query = json!({"environment": &*selection.environment, "project": selection.project_names(),
        "inlineSegmentConstraints": true});
    if let Some(prefix) = prefix {
        query["namePrefix"] = prefix.into();
    }
    let query = query.to_string();
    body.extend_from_slice(br#"],"query":"#);
    body.extend_from_slice(query.as_bytes());
    let etag = format!("\"{:032x}\"", hash(&body));
    let meta = json!({"etag": etag, "queryHash": format!("{:016x}", hash(query.as_bytes()) as u64)});
    body.extend_from_slice(br#","meta":"#);
    body.extend_from_slice(meta.to_string().as_bytes());
    body.push(b'}');
    (body, etag)
}

/// Appends the texts of the items, separated by commas.
pub fn write_texts(out: &mut Vec<u8>, items: &[Arc<Item>]) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.text.as_bytes());
    }
}

pub fn hash(bytes: &[u8]) -> u128 {
    let mut rest = bytes;
    // Reading from a slice cannot fail.
    murmur3::murmur3_x64_128(&mut rest, 0).unwrap_or_default()
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::default());
    // Writing to memory cannot fail.
    let compressed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    compressed.unwrap_or_default().into()
}

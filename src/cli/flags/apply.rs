//! `flags apply` and `flags diff`: compare flag files with the flags of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::cli::service::{Options, Service};
use crate::cli::{Global, Output, print};
use crate::flag::local::{LocalFlag, SCHEMA};
use crate::http::segment;

use super::files::{self, FlagKey, Flags};
use super::remote::{self, Remote};

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Folder with the flags, in `*.json` files of any name
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// Only flags of this environment
    #[arg(long)]
    environment: Option<String>,
    /// Delete local flags that are in no file, in the environments of the files
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    service: Options,
}

#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    diff: DiffArgs,
    /// Show the changes without making them
    #[arg(long)]
    dry_run: bool,
    /// Reason, stored with each change
    #[arg(long)]
    reason: Option<String>,
}

/// A change that makes a flag match its file.
#[derive(Debug)]
struct Planned {
    place: FlagKey,
    action: Action,
    /// The differing fields, each with the value before and after.
    fields: BTreeMap<String, (Value, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Update,
    Delete,
}

pub async fn diff(args: DiffArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let (_, _, plan) = plan(&args, global).await?;
    for planned in &plan {
        planned.print(global.output, None)?;
    }
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Applies the files. A change that the service rejects is reported, and the other changes are still made.
pub async fn apply(args: ApplyArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let (service, flags, plan) = plan(&args.diff, global).await?;
    let mut failed = false;
    for planned in &plan {
        if args.dry_run {
            planned.print(global.output, None)?;
            continue;
        }
        let error = match planned.carry_out(&service, &flags, args.reason.as_deref()).await {
            Ok(()) => None,
            Err(error) => Some(format!("{error:#}")),
        };
        failed |= error.is_some();
        planned.print(global.output, error.as_deref())?;
    }
    if plan.is_empty() && global.output == Output::Text {
        print::line("nothing to change")?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn plan(args: &DiffArgs, global: &Global) -> anyhow::Result<(Service, Flags, Vec<Planned>)> {
    let mut flags = files::read(&args.folder)?;
    if let Some(environment) = &args.environment {
        flags.retain(|(of, _), _| of == environment);
    }
    let service = Service::new(&args.service, &global.load_config()?)?;
    let mut environments: BTreeSet<&str> =
        flags.keys().map(|(environment, _)| environment.as_str()).collect();
    environments.extend(args.environment.as_deref());
    let remote = remote::read_all(&service, &environments).await?;
    let plan = compare(&flags, &remote, args.prune)?;
    Ok((service, flags, plan))
}

fn compare(flags: &Flags, remote: &Remote, prune: bool) -> anyhow::Result<Vec<Planned>> {
    let elsewhere = flags.keys().filter_map(|place| Some((place, remote.elsewhere.get(place)?)));
    let elsewhere: Vec<_> = elsewhere
        .map(|((environment, name), source)| format!("{environment}/{name}: is managed in {source}"))
        .collect();
    anyhow::ensure!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
    let mut plan = Vec::new();
    for place in parents_first(flags) {
        let wanted = flags.get(place).map(files::document).transpose()?.unwrap_or_default();
        let (action, before) = match remote.flags.get(place) {
            None => (Action::Create, json!({})),
            Some(flag) => (Action::Update, files::document(flag)?),
        };
        let fields = differences(&before, &wanted);
        if action == Action::Create || !fields.is_empty() {
            plan.push(Planned { place: place.clone(), action, fields });
        }
    }
    if prune {
        let gone = remote.flags.keys().filter(|place| !flags.contains_key(*place));
        plan.extend(gone.map(|place| Planned {
            place: place.clone(),
            action: Action::Delete,
            fields: BTreeMap::new(),
        }));
    }
    Ok(plan)
}

/// Flags in dependency order, parents first: a service rejects a flag whose parents are missing.
fn parents_first(flags: &Flags) -> Vec<&FlagKey> {
    fn add<'f>(
        place: &'f FlagKey,
        flags: &'f Flags,
        seen: &mut BTreeSet<&'f FlagKey>,
        order: &mut Vec<&'f FlagKey>,
    ) {
        if !seen.insert(place) {
            return;
        }
        for parent in flags.get(place).into_iter().flat_map(|flag| &flag.depends_on) {
            let parent = flags.get_key_value(&(place.0.clone(), parent.flag.clone()));
            if let Some((parent, _)) = parent {
                add(parent, flags, seen, order);
            }
        }
        order.push(place);
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::with_capacity(flags.len()));
    flags.keys().for_each(|place| add(place, flags, &mut seen, &mut order));
    order
}

fn differences(before: &Value, after: &Value) -> BTreeMap<String, (Value, Value)> {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (before, after) = (members(before), members(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let both = names.into_iter().map(|name| {
        let of = |members: &Map<String, Value>| members.get(name).cloned().unwrap_or_default();
        (name.clone(), (of(&before), of(&after)))
    });
    both.filter(|(_, (before, after))| before != after).collect()
}

impl Planned {
    async fn carry_out(&self, service: &Service, flags: &Flags, reason: Option<&str>) -> anyhow::Result<()> {
        let (environment, name) = &self.place;
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.append_pair("environment", environment).finish();
        let one = format!("/api/v1/feature-flags/{}?{query}", segment(name));
        let body = flags.get(&self.place).map(|flag| self.body(flag)).transpose()?;
        let answered = match self.action {
            Action::Create => {
                service.call(Method::POST, "/api/v1/feature-flags", reason, body.as_ref()).await?
            }
            Action::Update => service.call(Method::PUT, &one, reason, body.as_ref()).await?,
            Action::Delete => service.call(Method::DELETE, &one, reason, None::<&Value>).await?,
        };
        if answered.status == StatusCode::ACCEPTED {
            print::note(format_args!("flagstream: {environment}/{name}: accepted, but not yet in force"));
        }
        Ok(())
    }

    /// The whole flag as a request body. Fields that the file omits are reset to their defaults.
    fn body(&self, flag: &LocalFlag) -> anyhow::Result<Value> {
        let schema: Value = serde_json::from_str(SCHEMA)?;
        let mut body = Map::new();
        if self.action == Action::Update {
            let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
            body.extend(fields.map(|(field, _)| (field.clone(), Value::Null)));
            body.remove("scheduled_steps");
        }
        if let Value::Object(members) = files::document(flag)? {
            body.extend(members);
        }
        let (environment, name) = &self.place;
        body.insert("name".to_owned(), name.as_str().into());
        body.insert("environment".to_owned(), environment.as_str().into());
        Ok(Value::Object(body))
    }

    fn print(&self, output: Output, error: Option<&str>) -> std::io::Result<()> {
        let (environment, name) = &self.place;
        match output {
            Output::Json => {
                let action = match self.action {
                    Action::Create => "create",
                    Action::Update => "update",
                    Action::Delete => "delete",
                };
                let fields = self.fields.iter().map(|(field, (before, after))| {
                    (field.clone(), json!({"before": before, "after": after}))
                });
                let line = json!({"action": action, "environment": environment, "name": name,
                    "fields": Value::Object(fields.collect()), "error": error});
                print::line(&line.to_string())?;
            }
            Output::Text => {
                let sign = match self.action {
                    Action::Create => '+',
                    Action::Update => '~',
                    Action::Delete => '-',
                };
                print::line(&format!("{sign} {environment}/{name}"))?;
                for (field, (before, after)) in &self.fields {
                    let change = match self.action {
                        Action::Create => format!("    {field}: {after}"),
                        _ => format!("    {field}: {before} -> {after}"),
                    };
                    print::line(&change)?;
                }
                if let Some(error) = error {
                    print::note(format_args!("flagstream: {environment}/{name}: {error}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn flag(document: &Value) -> LocalFlag {
        serde_json::from_value(document.clone()).unwrap()
    }

    fn place(name: &str) -> FlagKey {
        ("e".to_owned(), name.to_owned())
    }

    #[test]
    fn only_what_differs_is_planned_and_parents_come_first() {
        let child = flag(&json!({"depends_on": ["z-parent"]}));
        let flags: Flags = [
            (place("child"), child),
            (place("same"), flag(&json!({"tags": ["a"]}))),
            (place("changed"), flag(&json!({"rollout_percentage": 25}))),
            (place("z-parent"), LocalFlag::default()),
        ]
        .into();
        let remote = Remote {
            flags: [
                (place("same"), flag(&json!({"tags": ["a"], "archived_at": "2026-01-01T00:00:00Z"}))),
                (place("changed"), flag(&json!({"rollout_percentage": "50"}))),
                (place("gone"), LocalFlag::default()),
            ]
            .into(),
            ..Remote::default()
        };
        let told = |prune| {
            let plan = compare(&flags, &remote, prune).unwrap();
            plan.into_iter().map(|it| (it.action, it.place.1, it.fields.len())).collect::<Vec<_>>()
        };
        let changed = (Action::Update, "changed".to_owned(), 1);
        let made = |name: &str, fields| (Action::Create, name.to_owned(), fields);
        assert_eq!(told(false), [changed.clone(), made("z-parent", 2), made("child", 3)]);
        assert_eq!(told(true).last().unwrap(), &(Action::Delete, "gone".to_owned(), 0));
        let elsewhere = [(place("same"), "unleash".to_owned())].into();
        let error =
            compare(&flags, &Remote { elsewhere, ..Remote::default() }, false).unwrap_err().to_string();
        assert_eq!(error, "e/same: is managed in unleash");
    }
}

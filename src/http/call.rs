//! One evaluation request: all its answers use the same snapshot and timestamp, and each is written as an event.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::attributes::{self, Completed, Joined, Joiner};
use crate::auth::{FlagFacts, Outside, Restrictions};
use crate::evaluate::answer::nanoseconds;
use crate::evaluate::error_log::{self, Origin};
use crate::evaluate::tally::{Tally, UNSERVED};
use crate::evaluate::unserved;
use crate::flag::value::{Lookup, answer, natural_answer};
use crate::flag::{Answer, CompiledFlag, EnvironmentFlags, EvaluationContext, Moment, Outcome, Snapshot};
use crate::message::event::{EventFrame, EventSource, Timestamp, call_event_id};
use crate::message::request::{Ask, Subject, generated_session};
use crate::outbox::EventBatch;
use crate::privacy::Shown;

use super::api::Api;
use super::cached::Kept;
use super::caller::Caller;
use super::counts::Path;
use super::events::CallEvents;
use super::unleash::Unrecorded;

/// Snapshot and timestamp of one request.
#[derive(Debug)]
pub(super) struct Call<'c> {
    api: &'c Api,
    pub(super) path: Path,
    pub(super) environment: &'c str,
    /// Flags that the caller may evaluate.
    restrictions: &'c Restrictions,
    snapshot: &'c Snapshot,
    flags: Option<(&'c Arc<str>, &'c Arc<EnvironmentFlags>)>,
    pub(super) flags_version: u64,
    not_ready: Option<&'static str>,
    time_ms: u64,
    /// Time of the request: RFC 3339, UTC, microseconds.
    pub(super) now: String,
    now_micros: i64,
    /// Random part of this request's event ids, so that they differ from those of all others.
    random: u64,
    source: EventSource<'c>,
    /// Cached outcomes from Redis, in the order of the answers. `None` or a missing entry: evaluate in memory.
    kept: &'c [Option<Kept>],
}

/// Origin of an evaluation that an SDK has made and reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported<'s> {
    /// Id that the SDK gave to the report.
    pub(super) id: Option<&'s str>,
    pub(super) source: EventSource<'s>,
}

impl<'s> CallSubject<'s> {
    /// Sets where the evaluation comes from, instead of the origin of the request.
    pub(super) fn reported(self, reported: Reported<'s>) -> Self {
        Self { reported: Some(reported), ..self }
    }

    /// User id as it may be written; `None` for a caller without a user.
    pub(super) fn shown_user(&self) -> Option<&str> {
        self.shown.user_id.as_deref()
    }

    /// Evaluation context of the caller, without what tables of attributes add.
    pub(super) fn context(&self) -> &EvaluationContext<'_> {
        &self.context
    }

    /// The context as a flag sees it, given its completion.
    pub(super) fn seen<'a>(&'a self, completed: Option<&'a Completed<'_>>) -> Seen<'a> {
        match completed {
            Some(Completed { context, written, used }) => Seen { context, written, used: *used },
            None => Seen { context: &self.context, written: &self.shown.context, used: None },
        }
    }
}

/// The context of a subject as one flag sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) context: &'a EvaluationContext<'a>,
    /// JSON text as it may be written to the event.
    written: &'a str,
    /// The attributes that tables added.
    used: Option<&'a str>,
}

/// Subject of an evaluation, and the part of its context that may be written to events.
#[derive(Debug)]
pub(super) struct CallSubject<'s> {
    /// Evaluation context. Without a user and a session it gets a generated anonymous id, so that all flags of the
    /// request are bucketed alike.
    context: Cow<'s, EvaluationContext<'s>>,
    shown: Shown<'s>,
    /// `None` without tables of attributes.
    joiner: Option<Joiner<'s>>,
    /// Set if the SDK has evaluated the flag; `None`: it is evaluated here.
    reported: Option<Reported<'s>>,
}

/// The answer for one flag and one subject.
#[derive(Debug)]
pub(super) struct Answered<'c> {
    pub(super) answer: Answer<'c>,
    /// `None` for an unknown flag or environment, and for a cached answer.
    pub(super) outcome: Option<Outcome<'c>>,
    /// Whether the answer comes from Redis.
    pub(super) was_kept: bool,
    event_id: [u8; 36],
}

impl Answered<'_> {
    pub(super) fn event_id(&self) -> &str {
        id_text(&self.event_id)
    }
}

/// Text of an event id.
fn id_text(event_id: &[u8; 36]) -> &str {
    // Never fails: an event id consists of hex digits and hyphens, which are ASCII.
    std::str::from_utf8(event_id).unwrap_or_default()
}

/// Collects the events and counts of a request's answers.
#[derive(Debug)]
pub(super) struct EventSink<'t> {
    events: CallEvents,
    tally: &'t mut Tally,
    index: u32,
}

impl EventSink<'_> {
    /// Counts an evaluation that does not become an event.
    pub(super) fn unrecorded(&mut self, reason: Unrecorded) {
        self.tally.unrecorded(reason as usize);
    }

    /// Prepares for the events of this many flags for each of `subjects`.
    pub(super) fn expect(&mut self, flags: usize, subjects: usize) {
        self.events.expect(flags, subjects);
    }

    /// Ends the last event. Returns the events of the request.
    pub(super) fn finish(self) -> EventBatch {
        self.events.finish()
    }
}

impl<'c> Call<'c> {
    pub(super) fn begin(
        api: &'c Api,
        caller: &'c Caller,
        snapshot: &'c Snapshot,
        path: Path,
        environment: &'c str,
    ) -> Self {
        Self::begin_within(api, caller.restrictions(), snapshot, path, environment)
    }

    /// Begins a request of a caller with these restrictions.
    pub(super) fn begin_within(
        api: &'c Api,
        restrictions: &'c Restrictions,
        snapshot: &'c Snapshot,
        path: Path,
        environment: &'c str,
    ) -> Self {
        let now: DateTime<Utc> = Utc::now();
        let flags = snapshot.environment_entry(environment);
        let is_ready = api.store.is_ready();
        if is_ready && flags.is_none() {
            unserved::note(environment, snapshot);
        }
        Self {
            api,
            path,
            environment,
            restrictions,
            snapshot,
            flags,
            flags_version: snapshot.version(),
            not_ready: (!is_ready).then_some("the flags are not loaded yet"),
            time_ms: now.timestamp_millis().unsigned_abs(),
            now: now.to_rfc3339_opts(SecondsFormat::Micros, true),
            now_micros: now.timestamp_micros(),
            random: rand::random(),
            source: EventSource::Api(path.as_str()),
            kept: &[],
        }
    }

    /// Sets the origin of the request in its events.
    pub(super) fn with_source(self, source: EventSource<'c>) -> Self {
        Self { source, ..self }
    }

    /// The moment of the request.
    pub(super) fn moment(&self) -> Moment<'_> {
        let app_name = &self.api.config.unleash.app_name;
        Moment { now: &self.now, hostname: &self.api.hostname, app_name }
    }

    /// Sets the cached outcomes. One is used as the answer if it is not older than the flag in force.
    pub(super) fn with_kept(self, kept: &'c [Option<Kept>]) -> Self {
        Self { kept, ..self }
    }

    /// All flags of the environment; `None` before the flags are loaded.
    pub(super) fn all_flags(&self) -> Option<&'c EnvironmentFlags> {
        let flags = self.flags.filter(|_| self.not_ready.is_none());
        flags.map(|(_, flags)| flags.as_ref())
    }

    /// Names of all flags that the caller may evaluate, sorted; `None` before the flags are loaded.
    pub(super) fn permitted_names(&self) -> Option<Vec<&'c str>> {
        let is_permitted =
            |flag: &&Arc<CompiledFlag>| self.restrictions.check(&FlagFacts::from(&***flag)).is_ok();
        let flags = self.all_flags()?.iter().filter(is_permitted);
        let mut names: Vec<_> = flags.map(|flag| &*flag.name).collect();
        names.sort_unstable();
        Some(names)
    }

    /// Fails if the caller may not evaluate the flag.
    pub(super) fn check_permitted(&self, flag: &str) -> Result<(), Outside> {
        self.restrictions.check_in_force(self.environment_flags(), flag)
    }

    /// The flags of the environment, whether or not loading is complete; `None` if the environment is not served.
    pub(super) fn environment_flags(&self) -> Option<&'c EnvironmentFlags> {
        self.flags.map(|(_, flags)| flags.as_ref())
    }

    pub(super) fn event_sink<'t>(&self, tally: &'t mut Tally) -> EventSink<'t> {
        // Callers can send any name of an environment that is not served, so it must not become a metric label.
        let label = self.flags.map_or_else(|| Arc::from(UNSERVED), |(name, _)| Arc::clone(name));
        EventSink { events: CallEvents::new(&self.api.formats, label), tally, index: 0 }
    }

    pub(super) fn call_subject<'s>(&self, subject: &'s Subject<'_>) -> CallSubject<'s>
    where
        'c: 's,
    {
        let (context, json) = (&subject.context, &subject.context_json);
        let shown = match &self.api.privacy {
            None => Shown::of(context, json),
            Some(privacy) => privacy.show(context, json),
        };
        let joiner = self.api.attributes.as_deref().map(|attributes| attributes.joiner(context, json));
        let mut context = Cow::Borrowed(context);
        if context.is_anonymous() && context.anonymous_id.is_none() {
            context.to_mut().anonymous_id = Some(Cow::Owned(generated_session(rand::random())));
        }
        CallSubject { context, shown, joiner, reported: None }
    }

    /// Session id of the event: the caller's, or the generated anonymous id if the flag's rollout used it.
    fn session<'a>(&self, call_subject: &'a CallSubject<'_>, flag: &str) -> Option<&'a str> {
        let context = &call_subject.context;
        let generated = || {
            let flags = self.all_flags().filter(|_| context.is_anonymous())?;
            let flag = flags.get(flag)?;
            context.anonymous_id.as_deref().filter(|_| flags.draws_for_nobody(flag, context))
        };
        call_subject.shown.session_id.as_deref().or_else(generated)
    }

    /// Answers one flag for one subject and writes the event.
    pub(super) fn answer(
        &self,
        call_subject: &CallSubject<'_>,
        ask: &'c Ask<'_>,
        event_sink: &mut EventSink<'_>,
    ) -> Answered<'c> {
        let kept = self.kept.get(event_sink.index as usize).and_then(Option::as_ref);
        let stopwatch = event_sink.tally.stopwatch();
        let permitted = self.check_permitted(&ask.flag);
        let joined = self.join(call_subject, &ask.flag);
        let completed = joined.as_ref().map(|joined| self.complete(call_subject, joined));
        let seen = call_subject.seen(completed.as_ref());
        let kept = kept.filter(|kept| permitted.is_ok() && self.may_serve(kept, &ask.flag));
        let kept = kept.and_then(|kept| kept.of(joined.as_ref()));
        let (answer, outcome, was_kept) = match (permitted, kept) {
            (Err(outside), _) => {
                (self.typed(ask, Lookup::Forbidden(outside.to_string().into())), None, false)
            }
            (Ok(()), Some(kept)) => {
                self.count_kept(kept, &ask.flag, event_sink.tally);
                (self.typed(ask, kept.lookup()), None, true)
            }
            (Ok(()), None) => {
                let (answer, outcome) = self.evaluate(seen.context, ask);
                (answer, outcome, false)
            }
        };
        // A cached answer was not evaluated, so it has no evaluation time.
        let evaluation_ns = stopwatch.filter(|_| !was_kept).map(nanoseconds);
        event_sink.tally.answer(self.flags.map(|(name, _)| name), &answer);
        if let Some(outcome) = &outcome {
            event_sink.tally.outcome(outcome);
        }
        let origin = Origin::Api { path: self.path.as_str() };
        error_log::note(&answer, &ask.flag, self.environment, &call_subject.shown, origin);
        let event_id = self.write_event(call_subject, seen, ask, &answer, evaluation_ns, event_sink);
        Answered { answer, outcome, was_kept, event_id }
    }

    /// Counts the outcome of a flag that was evaluated for an SDK of Unleash. The usage is not counted, because the SDK
    /// reports it itself.
    pub(super) fn count_outcome(
        &self,
        flag: &'c str,
        outcome: Outcome<'c>,
        event_sink: &mut EventSink<'_>,
    ) -> Answer<'c> {
        let answer = natural_answer(flag, Lookup::Found(outcome));
        self.count_answer(&answer, event_sink);
        answer
    }

    /// Counts an answer that is not evaluated here.
    pub(super) fn count_answer(&self, answer: &Answer<'_>, event_sink: &mut EventSink<'_>) {
        event_sink.tally.answer(self.flags.map(|(name, _)| name), answer);
    }

    /// Writes the event of an answer. Returns its id.
    pub(super) fn write_event(
        &self,
        call_subject: &CallSubject<'_>,
        seen: Seen<'_>,
        ask: &Ask<'_>,
        answer: &Answer<'_>,
        evaluation_ns: Option<u64>,
        event_sink: &mut EventSink<'_>,
    ) -> [u8; 36] {
        let event_id = call_event_id(self.time_ms, self.random, event_sink.index);
        event_sink.index += 1;
        let user = call_subject.shown.user_id.as_deref();
        let reported = call_subject.reported;
        let frame = EventFrame {
            event_id: id_text(&event_id),
            request_id: reported.and_then(|reported| reported.id),
            user_id: user,
            session_id: self.session(call_subject, &ask.flag),
            environment: self.environment,
            context: seen.written,
            attributes: seen.used,
            evaluated_at: Timestamp { text: &self.now, micros: self.now_micros },
            flags_version: self.flags_version,
            value_type: (!matches!(self.path, Path::Ofrep | Path::Unleash)).then_some(ask.value_type),
            evaluation_ns,
            source: reported.map_or(self.source, |reported| reported.source),
        };
        // Browsers often have only a session.
        let key = user.or(frame.session_id.filter(|_| self.path == Path::Unleash));
        event_sink.events.write(key.map(str::as_bytes), &call_subject.shown, &frame, ask, answer);
        event_id
    }

    /// Completes the context of a subject for one flag; `None` if it stays as it is.
    pub(super) fn join(&self, call_subject: &CallSubject<'_>, flag: &str) -> Option<Joined> {
        call_subject.joiner.as_ref()?.join(self.environment_flags(), flag)
    }

    /// The completed context, as it is evaluated and as it is written.
    pub(super) fn complete<'j>(
        &self,
        call_subject: &'j CallSubject<'_>,
        joined: &'j Joined,
    ) -> Completed<'j> {
        joined.complete(&call_subject.context, self.api.privacy.as_deref())
    }

    /// Upper bound in bytes of what tables of attributes add to the events of these answers.
    pub(super) fn added_bytes(&self, flags: usize, subjects: &[Subject<'_>]) -> usize {
        let Some(attributes) = &self.api.attributes else { return 0 };
        let subjects = subjects.iter().map(|subject| (&subject.context, subject.context_json.as_ref()));
        attributes.added_bytes(flags, subjects)
    }

    /// Whether a flag depends on attributes that are not loaded yet.
    fn lacks_attributes(&self, flag: &str) -> bool {
        if self.api.attributes.as_ref().is_none_or(|attributes| attributes.is_ready()) {
            return false;
        }
        let flag = self.environment_flags().and_then(|flags| Some((flags, flags.get(flag)?)));
        flag.is_some_and(|(flags, flag)| attributes::concern(flags, flag))
    }

    fn evaluate(
        &self,
        context: &EvaluationContext<'_>,
        ask: &'c Ask<'_>,
    ) -> (Answer<'c>, Option<Outcome<'c>>) {
        let outcome = self.all_flags().and_then(|flags| flags.evaluate(&ask.flag, context, &self.moment()));
        let lookup = match (outcome, self.flags, self.not_ready) {
            (_, _, Some(why)) => Lookup::NotReady(why.into()),
            _ if self.lacks_attributes(&ask.flag) => {
                Lookup::NotReady("the attributes are not loaded yet".into())
            }
            (_, None, None) => Lookup::unserved(self.environment),
            (None, Some(_), None) => Lookup::NotFound,
            (Some(outcome), ..) => Lookup::Found(outcome),
        };
        (self.typed(ask, lookup), outcome)
    }

    fn typed(&self, ask: &'c Ask<'_>, lookup: Lookup<'c>) -> Answer<'c> {
        match self.path {
            Path::Rest | Path::Edge => answer(&ask.flag, lookup, ask.value_type, ask.default.as_ref()),
            Path::Ofrep | Path::Unleash => natural_answer(&ask.flag, lookup),
        }
    }

    /// Whether a cached outcome may be served. The flag may have been changed or deleted between the read from Redis
    /// and this request's snapshot. Without flags in memory, every cached outcome is served, unless the caller's
    /// restrictions depend on the flag's definition.
    fn may_serve(&self, kept: &Kept, flag: &str) -> bool {
        if self.lacks_attributes(flag) {
            return false;
        }
        let Some(flags) = self.all_flags() else { return !self.restrictions.need_definition() };
        flags.get(flag).is_some_and(|flag| kept.outcome.basis >= self.snapshot.basis(flags, flag))
    }

    /// Counts a cached answer in the usage metrics that are sent to Unleash.
    fn count_kept(&self, kept: &crate::redis_cache::CachedOutcome, flag: &str, tally: &mut Tally) {
        if let Some(flag) = self.all_flags().and_then(|flags| flags.get(flag)) {
            let name = kept.variant.as_ref().map(|(name, _)| name.as_str());
            tally.kept(flag, kept.enabled, name);
        }
    }
}

//! Completion of the context of an explanation, so that it explains what an evaluation at this moment sees.

use crate::manage::ExplainRequest;
use crate::message::request::recorded_context;

use super::api::Api;

impl Api {
    /// The request with the context that tables of attributes complete now. The context of a recorded evaluation is
    /// complete already, and stays as it is; so does a context that cannot be read, which the explanation reports.
    pub(super) fn completed(&self, request: ExplainRequest) -> ExplainRequest {
        let is_recorded = request.versions.is_some() || request.evaluated_at.is_some();
        let Some(attributes) = self.attributes.as_ref().filter(|_| !is_recorded) else { return request };
        let (user, session) = (request.user_id.as_deref(), request.session_id.as_deref());
        let joined = recorded_context(&request.context, user, session).ok().and_then(|context| {
            let snapshot = self.store.load();
            let flags = snapshot.environment(&request.environment).map(AsRef::as_ref);
            attributes.joiner(&context, &request.context).join(flags, &request.flag_name)
        });
        match joined {
            Some(joined) => ExplainRequest { context: joined.json, ..request },
            None => request,
        }
    }
}

//! Selection of the evaluations that a watcher receives.

use std::sync::Arc;

use crate::audit::evaluation::Evaluation;
use crate::auth::Restrictions;
use crate::manage::EvaluationSelection;
use crate::store::Store;

/// Evaluations that a watcher receives.
#[derive(Debug, Clone, Default)]
pub struct LiveFilter {
    pub selection: EvaluationSelection,
    /// Whether users, sessions, request ids and contexts are included.
    pub with_users: bool,
    /// Flags that the watcher may see, with the store that has their projects and owners. `None`: all.
    pub within: Option<(Arc<Restrictions>, Arc<Store>)>,
}

impl LiveFilter {
    /// Whether the evaluation is selected and may be seen.
    pub(super) fn matches(&self, row: &Evaluation<'_>) -> bool {
        let equal = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        let EvaluationSelection { user_id, flag_name, environments, reason, variant, request_id } =
            &self.selection;
        equal(flag_name, Some(&row.flag_name))
            && environments.as_ref().is_none_or(|among| among.iter().any(|name| *name == row.environment))
            && equal(user_id, row.user_id.as_deref())
            && equal(reason, Some(&row.reason))
            && equal(variant, row.variant.as_deref())
            && equal(request_id, row.request_id.as_deref())
            && self.may_see(row)
    }

    fn may_see(&self, row: &Evaluation<'_>) -> bool {
        let Some((within, store)) = &self.within else { return true };
        let snapshot = store.load();
        let flags = snapshot.environment(&row.environment).map(|flags| &**flags);
        within.may_show(flags, &row.flag_name)
    }
}

//! Selection of the evaluations that a watcher receives.

use std::sync::Arc;

use crate::audit::evaluation::Evaluation;
use crate::auth::Restrictions;
use crate::store::Store;

/// Selection of evaluations. `None` selects all.
#[derive(Debug, Clone, Default)]
pub struct LiveFilter {
    pub user_id: Option<String>,
    pub flag_name: Option<String>,
    /// Environments to include; `None`: all.
    pub environments: Option<Vec<String>>,
    pub reason: Option<String>,
    pub variant: Option<String>,
    pub request_id: Option<String>,
    /// Whether users, sessions, request ids and contexts are included.
    pub with_users: bool,
    /// Flags that the watcher may see, with the store that has their projects and owners. `None`: all.
    pub within: Option<(Arc<Restrictions>, Arc<Store>)>,
}

impl LiveFilter {
    /// Whether the evaluation is selected and may be seen.
    pub(super) fn means(&self, row: &Evaluation<'_>) -> bool {
        let equal = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        let environments = self.environments.as_ref();
        equal(&self.flag_name, Some(&row.flag_name))
            && environments.is_none_or(|among| among.iter().any(|name| *name == row.environment))
            && equal(&self.user_id, row.user_id.as_deref())
            && equal(&self.reason, Some(&row.reason))
            && equal(&self.variant, row.variant.as_deref())
            && equal(&self.request_id, row.request_id.as_deref())
            && self.may_see(row)
    }

    fn may_see(&self, row: &Evaluation<'_>) -> bool {
        let Some((within, store)) = &self.within else { return true };
        let snapshot = store.load();
        let flags = snapshot.environment(&row.environment).map(|flags| &**flags);
        // A flag that is not in force has no project or owner that could be checked.
        let is_known = flags.is_some_and(|flags| flags.get(&row.flag_name).is_some());
        (is_known || !within.need_definition()) && within.check_in_force(flags, &row.flag_name).is_ok()
    }
}

//! What a sync leaves in the flag cache.

use chrono::Utc;

use crate::database::on_pool;

use super::records::time;
use super::sync::Expected;
use super::{ManageError, Manager};

const SYNCED: &str = "UPDATE feature_flags SET last_synced_at = $2::timestamptz
    WHERE environment = $1 AND source <> 'local' AND deleted_at IS NULL";

impl Manager {
    /// Notes that the flags were looked at. `true`: with what the Admin API says.
    pub(super) async fn note_synced(
        &self,
        environment: &str,
        _expected: &Expected,
    ) -> Result<bool, ManageError> {
        let Some(records) = &self.records else {
            return Ok(false);
        };
        on_pool!(&records.database, |pool, sql| {
            sqlx::query(sql(SYNCED)).bind(environment).bind(time(Utc::now())).execute(pool).await.map(drop)?
        });
        Ok(false)
    }
}

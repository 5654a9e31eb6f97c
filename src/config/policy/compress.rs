//! When and how a policy's cold snapshots are compressed.

use super::{SECOND, Table};
use crate::config::raw::RawCompress;
use crate::config::resolve::{delta, share};
use crate::policy::compress::{Compress, Method};

/// What `zstd` itself takes if it is given no level.
const LEVEL: u32 = 3;
/// A tenth.
const MIN_GAIN: u64 = 1000;

impl Table<'_, '_> {
    /// `None` as well if something is wrong with it, which is reported then.
    pub(super) fn compress(&mut self, raw: Option<&RawCompress>) -> Option<Compress> {
        let raw = raw?;
        let method = raw.method.unwrap_or_default();
        if let Some(level) = raw.level.as_ref().filter(|_| method == Method::Lz4) {
            let key = self.at("compress.level");
            self.report.wrong_help(&key, level.span(), "`level` means nothing to lz4", "leave it out, or use method = \"zstd\"");
        }
        let min_gain = share(&self.at("compress.min_gain"), raw.min_gain.as_ref(), self.report).unwrap_or(MIN_GAIN);
        Some(Compress {
            after: delta(self.period("compress.after", raw.after.as_ref(), SECOND)?),
            method,
            level: i32::try_from(raw.level.as_ref().map_or(LEVEL, |level| *level.get_ref())).unwrap_or(i32::MAX),
            min_gain,
            while_forked: raw.while_forked.unwrap_or(false),
        })
    }
}

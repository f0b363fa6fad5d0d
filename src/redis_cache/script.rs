//! Lua scripts that Redis executes atomically.
//!
//! In a cluster a script may only access keys of one slot, so each works on one value or on keys with the same hash
//! tag. Versions are Lua numbers, exact up to 2^53, which is enough for milliseconds until the year 287396.

/// Script, by its index in [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Write,
    Refresh,
    List,
    Raise,
}

/// Source texts, in the order of [`Script`].
pub(super) const ALL: [&str; 4] = [WRITE, REFRESH, LIST, RAISE];

impl Script {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Write => WRITE,
            Self::Refresh => REFRESH,
            Self::List => LIST,
            Self::Raise => RAISE,
        }
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// Writes values unless the existing one is newer. The first argument says whether missing keys are written too. For
/// each key follow its version, its lifetime in milliseconds (negative: the absolute time of expiry) and its value.
/// Returns the number of rejected values, and then the indexes of missing keys that were not written, because they may
/// not be in the index any more. An existing value that does not begin with a version counts as older than any.
const WRITE: &str = r#"
local call, create, answer = redis.call, ARGV[1] == '1', {0}
for i = 1, #KEYS do
  local at, key = 3 * i - 1, KEYS[i]
  local there = call('GETRANGE', key, 0, 47)
  if there == '' and not create then
    answer[#answer + 1] = i
  else
    local kept = tonumber(string.match(there, '^{"%l+_version":(%d+)'))
    if kept and kept > tonumber(ARGV[at]) then
      answer[1] = answer[1] + 1
    else
      local life, unit = ARGV[at + 1], 'PX'
      if string.byte(life) == 45 then
        life, unit = string.sub(life, 2), 'PXAT'
      end
      call('SET', key, ARGV[at + 2], unit, life)
    end
  end
end
return answer
"#;

/// Replaces existing values that are older, and keeps their time to live. For each key there are a version and a value;
/// an empty value removes the key. Returns the number of changed keys.
const REFRESH: &str = r#"
local changed = 0
for i, key in ipairs(KEYS) do
  local at = 2 * i - 1
  local old = redis.call('GETRANGE', key, 0, 47)
  if old ~= '' then
    local kept = tonumber(string.match(old, '^{"%l+_version":(%d+)'))
    if not kept or kept < tonumber(ARGV[at]) then
      if ARGV[at + 1] == '' then
        redis.call('UNLINK', key)
      else
        redis.call('SET', key, ARGV[at + 1], 'KEEPTTL')
      end
      changed = changed + 1
    end
  end
end
return changed
"#;

/// Starts a chunk with some members. Keys: the chunk, and the sorted set of the flag's chunks. Arguments: the current
/// time, the chunk's lifetime, the members. Returns the length of the chunk.
const LIST: &str = r#"
local now, life = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + life, KEYS[1])
redis.call('PEXPIRE', KEYS[2], life)
local length = redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], life)
return length
"#;

/// Raises a number. Arguments: the number, its lifetime in milliseconds. Returns the new number.
const RAISE: &str = r#"
local there = tonumber(redis.call('GET', KEYS[1]) or '0')
if there > tonumber(ARGV[1]) then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return tonumber(ARGV[1])
"#;

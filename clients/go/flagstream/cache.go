package flagstream

import (
	"container/list"
	"context"
	"encoding/json"
	"sync"
	"time"
)

type key [32]byte

type entry struct {
	key        key
	evaluation Evaluation
	isCurrent  func() bool
	until      time.Time
}

// memory keeps answers until they expire or a change overtakes them. It is bounded: the least recently used one is evicted.
type memory struct {
	mutex      sync.Mutex
	maxEntries int
	ttl        time.Duration
	now        func() time.Time
	entries    map[key]*list.Element
	used       *list.List // of entry, the last one used first
}

func newMemory(maxEntries int, ttl time.Duration, now func() time.Time) *memory {
	return &memory{maxEntries: maxEntries, ttl: ttl, now: now, entries: map[key]*list.Element{}, used: list.New()}
}

func (m *memory) get(key key) (Evaluation, bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	element, found := m.entries[key]
	if !found {
		return Evaluation{}, false
	}
	kept := element.Value.(entry)
	if !m.now().Before(kept.until) || !kept.isCurrent() {
		m.remove(element)
		return Evaluation{}, false
	}
	m.used.MoveToFront(element)
	return kept.evaluation, true
}

// put keeps an answer for as long as isCurrent returns true, at most for its lifetime.
func (m *memory) put(key key, evaluation Evaluation, isCurrent func() bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.maxEntries == 0 || !isCurrent() {
		return
	}
	if element, found := m.entries[key]; found {
		m.remove(element)
	}
	evaluation.Cached = true
	m.entries[key] = m.used.PushFront(entry{key, evaluation, isCurrent, m.now().Add(m.ttl)})
	if m.used.Len() > m.maxEntries {
		m.remove(m.used.Back())
	}
}

func (m *memory) clear() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	clear(m.entries)
	m.used.Init()
}

func (m *memory) remove(element *list.Element) {
	delete(m.entries, m.used.Remove(element).(entry).key)
}

// cache has the layers of a client's cache:
//
//	question ─► memory ─► Redis (booleans of users without context) ─► service
//	               ▲         ▲
//	change ────────┴─────────┴── announced versions: an older answer is not used
type cache struct {
	*announcements
	memory *memory     // complete answers
	shared *memory     // booleans that come from Redis: they are no complete answers
	redis  *redisCache // nil without a layer in Redis
}

func newCache(options Options) *cache {
	entries, ttl := 0, options.CacheTTL
	if options.Cache {
		entries = options.CacheMaxEntries
	}
	if options.Redis != nil {
		ttl = options.LocalTTL
	}
	c := &cache{announcements: newAnnouncements(), memory: newMemory(entries, ttl, options.now), shared: newMemory(entries, ttl, options.now)}
	if options.Redis != nil {
		c.redis = newRedisCache(options.Redis, options.CacheTTL, options.now)
	}
	return c
}

func (c *cache) get(key key) (Evaluation, bool) { return c.memory.get(key) }

func (c *cache) put(key key, evaluation Evaluation) {
	if evaluation.Reason != "ERROR" {
		c.memory.put(key, evaluation, func() bool { return c.isCurrent(evaluation) })
	}
}

// getBoolean returns a boolean of a user without context, from memory or Redis.
func (c *cache) getBoolean(ctx context.Context, key key, who Who, flag string) (Evaluation, bool) {
	if kept, found := c.shared.get(key); found {
		return kept, true
	}
	value, found := c.redis.get(ctx, who.Environment, flag, who.UserID)
	isCurrent := func() bool {
		if value.BasisVersion != nil {
			return *value.BasisVersion >= c.of(who.Environment)
		}
		return *value.FlagVersion >= c.ofFlag(who.Environment, flag)
	}
	// Compared after the value was read: a change may have been announced meanwhile.
	if !found || !isCurrent() {
		return Evaluation{}, false
	}
	encoded, _ := json.Marshal(*value.Enabled)
	evaluation := Evaluation{FlagName: flag, Value: encoded, Enabled: *value.Enabled, Reason: "CACHED", FlagVersion: *value.FlagVersion,
		Environment: who.Environment, FlagsVersion: value.version(), Cached: true}
	c.shared.put(key, evaluation, isCurrent)
	return evaluation, true
}

// putBoolean writes a boolean of a user without context to Redis.
func (c *cache) putBoolean(who Who, flag string, evaluation Evaluation) {
	_, err := evaluation.boolean()
	if c.redis != nil && err == nil && evaluation.Reason != "ERROR" && evaluation.Environment == who.Environment && c.isCurrent(evaluation) {
		c.redis.put(who.Environment, flag, who.UserID, evaluation)
	}
}

func (c *cache) clear() {
	c.memory.clear()
	c.shared.clear()
}

func (c *cache) isCurrent(evaluation Evaluation) bool {
	return evaluation.FlagsVersion >= c.of(evaluation.Environment)
}

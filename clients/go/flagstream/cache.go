package flagstream

import (
	"container/list"
	"sync"
	"time"
)

// maxEnvironments: beyond it an invalidation counts for all of them.
const maxEnvironments = 1_000

type key [32]byte

type entry struct {
	key        key
	evaluation Evaluation
	until      time.Time
}

// cache keeps answers until they are old or an invalidation overtakes them. It is bounded; what was used last stays.
//
// An answer carries the newest version that the service knew when it gave it (FlagsVersion). An invalidation of any flag of its
// environment with a higher version makes it old: flags depend on each other, and only the service knows how. So an answer that
// was on its way meanwhile is not kept either.
type cache struct {
	mutex      sync.Mutex
	maxEntries int
	ttl        time.Duration
	now        func() time.Time
	entries    map[key]*list.Element
	used       *list.List        // of entry, the last one used first
	announced  map[string]uint64 // the newest version, by environment; under "" that of all
}

func newCache(maxEntries int, ttl time.Duration, now func() time.Time) *cache {
	return &cache{maxEntries: maxEntries, ttl: ttl, now: now, entries: map[key]*list.Element{}, used: list.New(), announced: map[string]uint64{}}
}

func (c *cache) newest() (newest uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, version := range c.announced {
		newest = max(newest, version)
	}
	return newest
}

func (c *cache) get(key key) (Evaluation, bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	element, found := c.entries[key]
	if !found {
		return Evaluation{}, false
	}
	kept := element.Value.(entry)
	if !c.now().Before(kept.until) || !c.isNew(kept.evaluation) {
		c.remove(element)
		return Evaluation{}, false
	}
	c.used.MoveToFront(element)
	return kept.evaluation, true
}

func (c *cache) put(key key, evaluation Evaluation) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.maxEntries == 0 || evaluation.Reason == "ERROR" || !c.isNew(evaluation) {
		return
	}
	if element, found := c.entries[key]; found {
		c.remove(element)
	}
	c.entries[key] = c.used.PushFront(entry{key, evaluation, c.now().Add(c.ttl)})
	if c.used.Len() > c.maxEntries {
		c.remove(c.used.Back())
	}
}

func (c *cache) invalidate(version uint64, environment string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if _, known := c.announced[environment]; !known && len(c.announced) >= maxEnvironments {
		environment = ""
	}
	c.announced[environment] = max(version, c.announced[environment])
}

func (c *cache) clear() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	clear(c.entries)
	c.used.Init()
}

func (c *cache) remove(element *list.Element) {
	delete(c.entries, c.used.Remove(element).(entry).key)
}

func (c *cache) isNew(evaluation Evaluation) bool {
	return evaluation.FlagsVersion >= max(c.announced[""], c.announced[evaluation.Environment])
}

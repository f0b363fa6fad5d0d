package flagstream

import (
	"log/slog"
	"slices"
	"sync"
)

// listeners are functions that are called with each change, and when changes begin or cease to arrive.
type listeners struct {
	mutex     sync.Mutex
	last      int
	changes   map[int]func(FlagChange)
	following map[int]func(bool)
}

func newListeners() *listeners {
	return &listeners{changes: map[int]func(FlagChange){}, following: map[int]func(bool){}}
}

// OnChange calls the function with each change; the returned function ends it. The function must not block.
func (l *listeners) OnChange(listener func(FlagChange)) (stop func()) {
	return subscribe(l, l.changes, listener)
}

// OnFollowing calls the function when changes begin or cease to arrive; the returned function ends it.
func (l *listeners) OnFollowing(listener func(bool)) (stop func()) {
	return subscribe(l, l.following, listener)
}

func subscribe[T any](l *listeners, all map[int]func(T), listener func(T)) func() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.last++
	id := l.last
	all[id] = listener
	return func() {
		l.mutex.Lock()
		defer l.mutex.Unlock()
		delete(all, id)
	}
}

func notify[T any](l *listeners, all map[int]func(T), what T) {
	l.mutex.Lock()
	ids := make([]int, 0, len(all))
	for id := range all {
		ids = append(ids, id)
	}
	// In the order in which they were added.
	slices.Sort(ids)
	called := make([]func(T), 0, len(ids))
	for _, id := range ids {
		called = append(called, all[id])
	}
	l.mutex.Unlock()
	for _, listener := range called {
		func() {
			defer func() {
				if failure := recover(); failure != nil {
					slog.Error("flagstream: a listener failed", "panic", failure)
				}
			}()
			listener(what)
		}()
	}
}

func (l *listeners) changed(change FlagChange) { notify(l, l.changes, change) }
func (l *listeners) follows(isFollowing bool)  { notify(l, l.following, isFollowing) }

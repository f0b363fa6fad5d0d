package flagstream

import (
	"sync"
	"time"
)

// breaker leaves a service alone for a while that fails again and again: it opens after so many failures in a row; after the
// recovery timeout it lets one attempt through, which decides.
type breaker struct {
	mutex     sync.Mutex
	threshold int
	recovery  time.Duration
	now       func() time.Time
	failures  int
	open      bool
	opened    time.Time
	probing   bool
}

// enter is called before an attempt.
func (b *breaker) enter() error {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if !b.open {
		return nil
	}
	if b.probing || b.now().Sub(b.opened) < b.recovery {
		return &Error{Kind: CircuitOpen, Detail: "the service failed too often: not asked"}
	}
	b.probing = true
	return nil
}

func (b *breaker) succeeded() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.failures, b.open, b.probing = 0, false, false
}

func (b *breaker) failed() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.failures++
	if b.open || b.failures >= b.threshold {
		b.open, b.opened = true, b.now()
	}
	b.probing = false
}

// abandoned: an attempt was cancelled, which says nothing about the service.
func (b *breaker) abandoned() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.probing = false
}

// mayBeWell: the service gave a sign of life, the next attempt goes through at once.
func (b *breaker) mayBeWell() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.open {
		b.opened = b.now().Add(-b.recovery)
	}
}

func (b *breaker) isOpen() bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.open
}

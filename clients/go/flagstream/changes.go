package flagstream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// The service writes something every 15 s; a connection that is silent for longer is dead.
	silence      = 45 * time.Second
	maxLineBytes = 64 << 10
	retryBase    = time.Second
	retryCap     = 30 * time.Second
)

// changes reads server-sent events, and tells the cache.
type changes struct {
	cache  *cache
	lastID string
	id     string
	data   []byte
}

func (c *changes) line(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch {
	case string(name) == "id":
		c.id = string(value)
	case string(name) == "data":
		// The service writes all of it in one line.
		c.data = bytes.Clone(value)
	case len(line) == 0 && c.id != "":
		if len(c.data) > 0 {
			apply(c.cache, c.data)
		} else if version, err := strconv.ParseUint(c.id, 10, 64); err == nil {
			// Where the stream begins: what changed before is not told.
			c.cache.invalidate(version, "")
		}
		c.lastID = c.id
		c.restart()
	}
}

// restart forgets half an event, of a connection that broke.
func (c *changes) restart() { c.id, c.data = "", nil }

// apply takes one invalidation, as it stands in the stream or in feature-flag-updates, and tells whether it was understood.
func apply(cache *cache, message []byte) bool {
	var event struct {
		Version     *uint64 `json:"version"`
		Environment string  `json:"environment"`
	}
	if err := json.Unmarshal(message, &event); err != nil || event.Version == nil {
		return false
	}
	cache.invalidate(*event.Version, event.Environment)
	return true
}

func (c *Client) follow() {
	defer c.followers.Done()
	heard := &changes{cache: c.cache}
	for failures := 0; ; failures++ {
		err := c.listen(heard, func() { failures = 0 })
		c.following.Store(false)
		select {
		case <-c.life.Done():
			return
		case <-time.After(time.Duration(rand.Float64() * float64(min(retryCap, retryBase<<min(failures, 10))))):
			slog.Warn("flagstream: changes are not heard of", "error", err)
		}
	}
}

func (c *Client) listen(heard *changes, following func()) error {
	ctx, cancel := context.WithCancel(c.life)
	defer cancel()
	silent := time.AfterFunc(c.options.AttemptTimeout, cancel)
	defer silent.Stop()
	path := "/api/v1/changes"
	if c.options.Environment != "" {
		path += "?" + url.Values{"environment": {c.options.Environment}}.Encode()
	}
	request, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	if heard.lastID != "" {
		request.Header.Set("Last-Event-ID", heard.lastID)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errorOf(response.StatusCode, response.Header, nil)
	}
	c.breaker.mayBeWell()
	heard.restart()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		silent.Reset(silence)
		heard.line(lines.Bytes())
		if heard.lastID != "" {
			following()
			c.following.Store(true)
			c.hearOnce.Do(func() { close(c.heard) })
		}
	}
	return lines.Err()
}

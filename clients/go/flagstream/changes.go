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

// changes reads server-sent events.
type changes struct {
	changed func(FlagChange)
	begins  func(version uint64) // receives the version with which a stream begins
	lastID  string
	id      string
	data    []byte
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
			if change, isChange := parseChange(c.data); isChange {
				c.changed(change)
			}
		} else if version, err := strconv.ParseUint(c.id, 10, 64); err == nil {
			// The first event has only an id: earlier changes are not reported.
			c.begins(version)
		}
		c.lastID = c.id
		c.restart()
	}
}

// restart forgets half an event, of a connection that broke.
func (c *changes) restart() { c.id, c.data = "", nil }

// parseChange reads one change, as it is in the stream or in feature-flag-updates.
func parseChange(message []byte) (FlagChange, bool) {
	var event struct {
		FlagChange
		Version *uint64 `json:"version"`
	}
	if err := json.Unmarshal(message, &event); err != nil || event.Version == nil {
		return FlagChange{}, false
	}
	change := event.FlagChange
	change.Version = *event.Version
	if change.Type == "" {
		change.Type = "RESET"
	}
	return change, true
}

func (c *Client) follow() {
	defer c.followers.Done()
	reader := &changes{changed: c.apply, begins: c.cache.begin}
	for failures := 0; ; failures++ {
		err := c.listen(reader, func() { failures = 0 })
		c.setFollowing(false)
		select {
		case <-c.life.Done():
			return
		case <-time.After(time.Duration(rand.Float64() * float64(min(retryCap, retryBase<<min(failures, 10))))):
			slog.Warn("flagstream: no changes arrive", "error", err)
		}
	}
}

func (c *Client) setFollowing(isFollowing bool) {
	if c.following.Swap(isFollowing) != isFollowing {
		c.follows(isFollowing)
	}
}

func (c *Client) listen(reader *changes, following func()) error {
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
	if reader.lastID != "" {
		request.Header.Set("Last-Event-ID", reader.lastID)
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
	reader.restart()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		silent.Reset(silence)
		reader.line(lines.Bytes())
		if reader.lastID != "" {
			following()
			c.setFollowing(true)
			c.arriveOnce.Do(func() { close(c.arrived) })
		}
	}
	return lines.Err()
}

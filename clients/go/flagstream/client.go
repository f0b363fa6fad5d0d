package flagstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswerBytes: larger answers are refused. The service's own are at most about half of it.
const maxAnswerBytes = 32 << 20

// maxWarnings: combinations of environment and error code that are warned of, each once.
const maxWarnings = 100

// Client asks flagstream.
type Client struct {
	base      string
	options   Options
	cache     *cache
	breaker   *breaker
	http      *http.Client
	life      context.Context // until it is closed
	end       context.CancelFunc
	followers sync.WaitGroup
	following atomic.Bool
	hearOnce  sync.Once
	heard     chan struct{}
	warnings  sync.Mutex
	warned    map[[2]string]bool // environments and error codes that were warned of
}

// IsEnabled tells whether a flag is on.
func (c *Client) IsEnabled(ctx context.Context, flag string, who Who, value bool) bool {
	evaluation, err := c.Evaluate(ctx, flag, who, One{Default: value})
	if err == nil {
		var enabled bool
		if enabled, err = evaluation.boolean(); err == nil {
			return enabled
		}
	}
	c.hide(err)
	return value
}

// EvaluateFlag gives a flag's value as encoding/json sees it, or the default.
func (c *Client) EvaluateFlag(ctx context.Context, flag string, who Who, one One) any {
	evaluation, err := c.Evaluate(ctx, flag, who, one)
	if err != nil {
		c.hide(err)
		return one.Default
	}
	return evaluation.Any()
}

// Value gives a flag's value in the type of the default: a number, a text, a struct. It takes a *Client or, in tests, a *Mock.
func Value[T any](ctx context.Context, flags Flags, flag string, who Who, value T) T {
	evaluation, err := flags.Evaluate(ctx, flag, who, One{Default: value})
	if err == nil {
		var said T
		if err = evaluation.Decode(&said); err == nil {
			return said
		}
	}
	if hider, ok := flags.(interface{ hide(error) }); ok {
		hider.hide(err)
	}
	return value
}

// BatchEvaluate asks for many flags at once, as booleans.
func (c *Client) BatchEvaluate(ctx context.Context, flags []string, who Who, value bool) map[string]bool {
	defaults := make(map[string]any, len(flags))
	for _, flag := range flags {
		defaults[flag] = value
	}
	said := make(map[string]bool, len(flags))
	for flag, evaluation := range c.BulkEvaluateFlags(ctx, flags, who, Many{Defaults: defaults}) {
		enabled, err := evaluation.boolean()
		if err != nil {
			c.hide(err)
			enabled = value
		}
		said[flag] = enabled
	}
	return said
}

// BulkEvaluateFlags asks for many flags at once; ERROR is the reason where the default stands in.
func (c *Client) BulkEvaluateFlags(ctx context.Context, flags []string, who Who, many Many) map[string]Evaluation {
	said, err := c.EvaluateMany(ctx, flags, who, many)
	if err == nil {
		return said
	}
	c.hide(err)
	said = make(map[string]Evaluation, len(flags))
	for _, flag := range flags {
		key, unencodable := keyOf(flag, c.complete(who), many.Defaults[flag], many.ValueTypes[flag])
		kept, found := c.cache.get(key)
		if unencodable != nil || !found {
			kept = failed(flag, many.Defaults[flag], err)
		}
		said[flag] = kept
	}
	return said
}

// Evaluate gives all that the service says of a flag, or an *Error.
func (c *Client) Evaluate(ctx context.Context, flag string, who Who, asked One) (Evaluation, error) {
	who = c.complete(who)
	key, err := keyOf(flag, who, asked.Default, asked.ValueType)
	if err != nil {
		return Evaluation{}, err
	}
	if kept, found := c.cache.get(key); found && kept.FlagsVersion >= asked.MinVersion {
		return kept, nil
	}
	// The empty name is wrong, which the service shall say.
	body := struct {
		question
		FlagName string `json:"flag_name"`
	}{question{Default: asked.Default, ValueType: asked.ValueType, Who: who}, flag}
	answer, err := c.exchange(ctx, onePath, body, asked.MinVersion)
	if err != nil {
		return Evaluation{}, err
	}
	evaluation, err := one(answer)
	if err == nil {
		c.warn(evaluation)
		c.cache.put(key, evaluation)
	}
	return evaluation, err
}

// EvaluateMany gives all that the service says of many flags, or an *Error.
func (c *Client) EvaluateMany(ctx context.Context, flags []string, who Who, asked Many) (map[string]Evaluation, error) {
	who = c.complete(who)
	found := make(map[string]Evaluation, len(flags))
	keys := make(map[string]key, len(flags))
	body := question{Who: who, Defaults: map[string]any{}, ValueTypes: map[string]string{}}
	for _, flag := range flags {
		if _, known := keys[flag]; known {
			continue
		}
		key, err := keyOf(flag, who, asked.Defaults[flag], asked.ValueTypes[flag])
		if err != nil {
			return nil, err
		}
		keys[flag] = key
		if kept, ok := c.cache.get(key); ok && kept.FlagsVersion >= asked.MinVersion {
			found[flag] = kept
			continue
		}
		body.FlagNames = append(body.FlagNames, flag)
		if value := asked.Defaults[flag]; value != nil {
			body.Defaults[flag] = value
		}
		if valueType := asked.ValueTypes[flag]; valueType != "" {
			body.ValueTypes[flag] = valueType
		}
	}
	if len(body.FlagNames) == 0 {
		return found, nil
	}
	answer, err := c.exchange(ctx, manyPath, body, asked.MinVersion)
	if err != nil {
		return nil, err
	}
	answers, err := many(answer, body.FlagNames)
	for flag, evaluation := range answers {
		c.warn(evaluation)
		c.cache.put(keys[flag], evaluation)
		found[flag] = evaluation
	}
	return found, err
}

// Invalidate: answers that don't know of this version are kept no longer (of all environments, if none is named).
func (c *Client) Invalidate(version uint64, environment string) {
	c.cache.invalidate(version, environment)
}

// ApplyInvalidation takes a message of feature-flag-updates, and tells whether it was understood.
func (c *Client) ApplyInvalidation(message []byte) bool { return apply(c.cache, message) }

// ClearCache forgets all answers.
func (c *Client) ClearCache() { c.cache.clear() }

// IsFollowing tells whether changes are heard of right now.
func (c *Client) IsFollowing() bool { return c.following.Load() }

// WaitUntilFollowing returns when changes were heard of for the first time.
func (c *Client) WaitUntilFollowing(ctx context.Context) error {
	select {
	case <-c.heard:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends what is under way.
func (c *Client) Close() {
	c.end()
	c.followers.Wait()
	c.http.CloseIdleConnections()
}

func (c *Client) complete(who Who) Who {
	if who.Environment == "" {
		who.Environment = c.options.Environment
	}
	return who
}

func (c *Client) exchange(ctx context.Context, path string, body any, minVersion uint64) ([]byte, error) {
	encoded, err := encode(body)
	if err != nil {
		return nil, err
	}
	deadline := c.options.now().Add(c.options.Timeout)
	// An instance that has not heard of a change yet waits for it. If it takes too long, an older answer, which is not kept, is
	// better than none: retries don't ask for it.
	wanted := max(minVersion, c.cache.newest())
	for attempt := 0; ; attempt++ {
		answer, err := c.attempt(ctx, path, encoded, wanted, deadline)
		if err == nil {
			return answer, nil
		}
		pause := c.pause(attempt, err)
		isLate := !c.options.now().Add(pause).Before(deadline)
		if !err.IsPassing() || attempt >= c.options.MaxRetries || isLate || c.breaker.isOpen() {
			return nil, err
		}
		if err := c.wait(ctx, pause); err != nil {
			return nil, err
		}
		wanted = minVersion
	}
}

func (c *Client) attempt(ctx context.Context, path string, body []byte, wanted uint64, deadline time.Time) ([]byte, *Error) {
	if err := c.breaker.enter(); err != nil {
		return nil, err.(*Error)
	}
	timeout := min(c.options.AttemptTimeout, deadline.Sub(c.options.now()))
	status, header, answer, err := c.post(ctx, path, body, wanted, timeout)
	if err != nil {
		if err.Kind == Cancelled || err.Kind == InvalidAnswer {
			c.breaker.abandoned()
		} else {
			c.breaker.failed()
		}
		return nil, err
	}
	if status >= 500 {
		c.breaker.failed()
	} else {
		c.breaker.succeeded()
	}
	if status != http.StatusOK {
		return nil, errorOf(status, header, answer)
	}
	return answer, nil
}

func (c *Client) post(ctx context.Context, path string, body []byte, wanted uint64, timeout time.Duration) (int, http.Header, []byte, *Error) {
	attempt, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	request, err := c.request(attempt, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, &Error{Kind: InvalidRequest, Detail: err.Error(), Cause: err}
	}
	if wanted != 0 {
		request.Header.Set("If-Flags-Version", strconv.FormatUint(wanted, 10))
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, nil, c.failure(ctx, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err != nil {
		return 0, nil, nil, c.failure(ctx, err)
	}
	if len(answer) > maxAnswerBytes {
		return 0, nil, nil, invalidAnswer(response.StatusCode, "the answer is too large")
	}
	return response.StatusCode, response.Header, answer, nil
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "flagstream-client-go/0.1.0")
	if c.options.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.options.Token)
	}
	return request, nil
}

func (c *Client) failure(ctx context.Context, err error) *Error {
	switch {
	case c.life.Err() != nil:
		return &Error{Kind: Cancelled, Detail: "the client is closed", Cause: err}
	case ctx.Err() != nil:
		return &Error{Kind: Cancelled, Detail: ctx.Err().Error(), Cause: ctx.Err()}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Kind: TimedOut, Detail: "no response before the timeout", Cause: err}
	}
	return &Error{Kind: ConnectionFailed, Detail: err.Error(), Cause: err}
}

// pause is exponential with full jitter, so that clients don't come back together.
func (c *Client) pause(attempt int, err *Error) time.Duration {
	most := c.options.BackoffCap
	if doubled := c.options.BackoffBase << min(attempt, 30); doubled > 0 {
		most = min(most, doubled)
	}
	return err.RetryAfter + time.Duration(rand.Float64()*float64(most))
}

func (c *Client) wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.life.Done():
	case <-ctx.Done():
	}
	return c.failure(ctx, context.Canceled)
}

// warn reports, once for each environment and code, that the service answers with defaults because of an error.
func (c *Client) warn(evaluation Evaluation) {
	if evaluation.Reason != "ERROR" {
		return
	}
	key := [2]string{evaluation.Environment, evaluation.ErrorCode}
	c.warnings.Lock()
	isNew := !c.warned[key] && len(c.warned) < maxWarnings
	if isNew {
		c.warned[key] = true
	}
	c.warnings.Unlock()
	if isNew {
		c.options.OnWarning(evaluation)
	}
}

func (c *Client) hide(err error) {
	// Whatever opened the circuit was told.
	var known *Error
	if errors.As(err, &known) && known.Kind != CircuitOpen {
		c.options.OnError(err)
	}
}

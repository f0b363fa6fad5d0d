package flagstream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
)

// maxWarnings: combinations of environment and error code that are warned of, each once.
const maxWarnings = 100

// Client evaluates flags over HTTP.
type Client struct {
	*listeners
	base       string
	options    Options
	cache      *cache
	breaker    *breaker
	http       *http.Client
	life       context.Context // until it is closed
	end        context.CancelFunc
	followers  sync.WaitGroup
	following  atomic.Bool
	arriveOnce sync.Once
	arrived    chan struct{}
	warnings   sync.Mutex
	warned     map[[2]string]bool // environments and error codes that were warned of
}

// IsEnabled returns whether a flag is on.
func (c *Client) IsEnabled(ctx context.Context, flag string, who Who, value bool) bool {
	evaluation, err := c.evaluateBoolean(ctx, flag, who, value)
	if err == nil {
		var enabled bool
		if enabled, err = evaluation.boolean(); err == nil {
			return enabled
		}
	}
	c.hide(err)
	return value
}

// EvaluateFlag gives a flag's value as encoding/json sees it, or the default. Without a ValueType a value of another type than the
// default counts as a failure.
func (c *Client) EvaluateFlag(ctx context.Context, flag string, who Who, one One) any {
	evaluation, err := c.Evaluate(ctx, flag, who, one)
	if err == nil && one.ValueType == "" {
		err = evaluation.like(one.Default)
	}
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

// evaluateBoolean evaluates with all layers of the cache.
func (c *Client) evaluateBoolean(ctx context.Context, flag string, who Who, value bool) (Evaluation, error) {
	if kept, found := c.sharedBoolean(ctx, flag, who, value); found {
		return kept, nil
	}
	return c.Evaluate(ctx, flag, who, One{Default: value})
}

// sharedBoolean returns a boolean of a user without context and session, if a cache with a layer in Redis has it.
func (c *Client) sharedBoolean(ctx context.Context, flag string, who Who, value bool) (Evaluation, bool) {
	who = c.complete(who)
	if c.cache.redis == nil || !who.isShared() {
		return Evaluation{}, false
	}
	key, err := keyOf(flag, who, value, "")
	if err != nil {
		return Evaluation{}, false
	}
	if kept, found := c.cache.get(key); found {
		return kept, true
	}
	return c.cache.getBoolean(ctx, key, who, flag)
}

// BatchEvaluate asks for many flags at once, as booleans.
func (c *Client) BatchEvaluate(ctx context.Context, flags []string, who Who, value bool) map[string]bool {
	defaults := make(map[string]any, len(flags))
	answers := make(map[string]Evaluation, len(flags))
	var missing []string
	for _, flag := range flags {
		defaults[flag] = value
		if kept, found := c.sharedBoolean(ctx, flag, who, value); found {
			answers[flag] = kept
		} else {
			missing = append(missing, flag)
		}
	}
	for flag, evaluation := range c.BulkEvaluateFlags(ctx, missing, who, Many{Defaults: defaults}) {
		answers[flag] = evaluation
	}
	said := make(map[string]bool, len(flags))
	for flag, evaluation := range answers {
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
	body := oneQuestion{question{Default: asked.Default, ValueType: asked.ValueType, Who: who}, flag}
	answer, err := c.exchange(ctx, onePath, body, requirements{minVersion: asked.MinVersion, newest: c.cache.newest()})
	if err != nil {
		return Evaluation{}, err
	}
	evaluation, err := one(answer)
	if err == nil {
		c.take(key, flag, who, asked.Default, asked.ValueType, evaluation)
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
	answer, err := c.exchange(ctx, manyPath, body, requirements{minVersion: asked.MinVersion, newest: c.cache.newest()})
	if err != nil {
		return nil, err
	}
	answers, err := many(answer, body.FlagNames)
	for flag, evaluation := range answers {
		c.take(keys[flag], flag, who, asked.Defaults[flag], asked.ValueTypes[flag], evaluation)
		found[flag] = evaluation
	}
	return found, err
}

// take keeps an answer of the service.
func (c *Client) take(key key, flag string, who Who, value any, valueType string, evaluation Evaluation) {
	c.warn(evaluation)
	c.cache.put(key, evaluation)
	_, isBoolean := value.(bool)
	if (isBoolean || value == nil) && (valueType == "" || valueType == "boolean") && who.isShared() {
		c.cache.putBoolean(who, flag, evaluation)
	}
}

// Invalidate makes cached answers older than this version unusable (of all environments, if none is named).
func (c *Client) Invalidate(version uint64, environment string) {
	c.apply(FlagChange{Type: "RESET", Environment: environment, Version: version})
}

// ApplyInvalidation takes a message of feature-flag-updates, and returns whether it was understood.
func (c *Client) ApplyInvalidation(message []byte) bool {
	change, isChange := parseChange(message)
	if isChange {
		c.apply(change)
	}
	return isChange
}

func (c *Client) apply(change FlagChange) {
	c.cache.add(change)
	c.changed(change)
}

// ClearCache drops all answers that are cached in memory.
func (c *Client) ClearCache() { c.cache.clear() }

// IsFollowing returns whether changes arrive.
func (c *Client) IsFollowing() bool { return c.following.Load() }

// WaitUntilFollowing returns when changes arrive for the first time.
func (c *Client) WaitUntilFollowing(ctx context.Context) error {
	select {
	case <-c.arrived:
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
	// Whatever opened the circuit was reported.
	var known *Error
	if errors.As(err, &known) && known.Kind != CircuitOpen {
		c.options.OnError(err)
	}
}

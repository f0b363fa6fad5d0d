package flagstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// maxAnswerBytes: larger answers are refused. The service's own are at most about half of it.
const maxAnswerBytes = 32 << 20

// requirements are what a request needs beside its body.
type requirements struct {
	minVersion uint64 // the version that every attempt requires, or 0
	// newest is the newest announced version: the first attempt waits for it, because an instance that does not have it yet would
	// give an outdated answer. If that takes too long, such an answer, which is not cached, is better than none.
	newest uint64
}

func (c *Client) exchange(ctx context.Context, path string, body any, required requirements) ([]byte, error) {
	encoded, err := encode(body)
	if err != nil {
		return nil, err
	}
	deadline := c.options.now().Add(c.options.Timeout)
	wanted := max(required.minVersion, required.newest)
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
		wanted = required.minVersion
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
	if status != http.StatusOK && status != http.StatusAccepted {
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
	if c.options.Traceparent != nil {
		if traceparent := c.options.Traceparent(ctx); traceparent != "" {
			request.Header.Set("traceparent", traceparent)
		}
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

package flagstream

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Kind says how to react to an Error. The words are the same in the clients of all languages.
type Kind string

const (
	ConnectionFailed Kind = "connection_failed" // nobody answered, or the connection broke
	TimedOut         Kind = "timed_out"         // no answer in the time given to it
	Cancelled        Kind = "cancelled"         // the caller's context ended
	CircuitOpen      Kind = "circuit_open"      // not asked: the service failed too often a moment ago
	InvalidRequest   Kind = "invalid_request"   // Fields says where; without a Status it was not even sent
	Unauthorized     Kind = "unauthorized"      // no token, or not a known one
	Forbidden        Kind = "forbidden"         // the token lacks the scope or the environment
	NotFound         Kind = "not_found"         // not the address of a flagstream: an unknown flag is an answer
	RateLimited      Kind = "rate_limited"      // RetryAfter says when to come back
	Unavailable      Kind = "unavailable"       // the service cannot answer now
	InvalidAnswer    Kind = "invalid_answer"    // something answered that is not flagstream
)

// FieldError is what is wrong with one field of the request.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Error is any failure of a call. Status, Detail and Fields are those of the answer's problem+json (RFC 9457).
type Error struct {
	Kind       Kind
	Status     int // 0 where there was no answer
	Detail     string
	Fields     []FieldError
	RetryAfter time.Duration
	Cause      error
}

func (e *Error) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("flagstream: %d: %s", e.Status, e.Detail)
	}
	return "flagstream: " + e.Detail
}

func (e *Error) Unwrap() error { return e.Cause }

// IsPassing tells whether it may be different the next time.
func (e *Error) IsPassing() bool {
	switch e.Kind {
	case ConnectionFailed, TimedOut, RateLimited, Unavailable:
		return true
	}
	return false
}

func invalidAnswer(status int, detail string) *Error {
	return &Error{Kind: InvalidAnswer, Status: status, Detail: detail}
}

// errorOf is what an answer other than 200 means.
func errorOf(status int, header http.Header, body []byte) *Error {
	var problem struct {
		Title, Detail string
		Errors        []FieldError
	}
	// What is no problem+json leaves only the status to tell.
	_ = json.Unmarshal(body, &problem)
	detail := problem.Detail
	if detail == "" {
		detail = problem.Title
	}
	if detail == "" {
		detail = http.StatusText(status)
	}
	return &Error{Kind: kindOf(status), Status: status, Detail: detail, Fields: problem.Errors, RetryAfter: retryAfter(header)}
}

func kindOf(status int) Kind {
	switch {
	case status == http.StatusUnauthorized:
		return Unauthorized
	case status == http.StatusForbidden:
		return Forbidden
	case status == http.StatusNotFound:
		return NotFound
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status >= 500:
		return Unavailable
	case status >= 400:
		return InvalidRequest
	}
	return InvalidAnswer
}

// flagstream writes seconds; a date, as proxies may write it, is not worth a clock of theirs.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(header.Get("Retry-After"), 64)
	if err != nil || !(seconds >= 0) || seconds > math.MaxInt32 {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

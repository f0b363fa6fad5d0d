package flagstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net/url"
	"time"
)

// Conversion is what a metric of an experiment counts.
type Conversion struct {
	Experiment string
	Metric     string
	Value      *float64 // required by a mean
	// EventID makes a repetition harmless: a conversion that has the id of an earlier one is not counted again. By default it is
	// random.
	EventID    string
	OccurredAt time.Time // default: now
	// Metadata are further properties, which are kept with the conversion and can be dimensions of the experiment's results.
	Metadata map[string]any
}

// WithValue returns a copy with a value.
func (c Conversion) WithValue(value float64) Conversion {
	c.Value = &value
	return c
}

// Event is what a user did, for every running experiment that has a metric of this name (experimental).
type Event struct {
	Metric string
	Value  *float64 // required by a mean
	// EventID makes a repetition harmless, as that of a Conversion. By default it is random.
	EventID string
	// Metadata is that of the conversions. It cannot have the members value, experiment, eventId and occurredAt, which are the
	// event's own.
	Metadata map[string]any
}

// WithValue returns a copy with a value.
func (e Event) WithValue(value float64) Event {
	e.Value = &value
	return e
}

// conversionBody is a conversion as it crosses the wire.
type conversionBody struct {
	UserID     string         `json:"user_id"`
	Metric     string         `json:"metric"`
	Value      *float64       `json:"value,omitempty"`
	OccurredAt string         `json:"occurred_at"`
	EventID    string         `json:"event_id"`
	Metadata   map[string]any `json:"metadata,omitempty"`
}

// GetVariant returns the variant of a flag or of an experiment, or the default if there is none or the service does not answer.
func (c *Client) GetVariant(ctx context.Context, flag string, who Who, variant string) string {
	// Every variant is a string, so the type always fits.
	evaluation, err := c.Evaluate(ctx, flag, who, One{ValueType: "string"})
	if err != nil {
		c.hide(err)
		return variant
	}
	if evaluation.Variant == "" {
		return variant
	}
	return evaluation.Variant
}

// TrackExposure evaluates a flag of an experiment without the cache, which exposes the user. Each user counts once.
func (c *Client) TrackExposure(ctx context.Context, flag string, who Who) error {
	body := oneQuestion{question{ValueType: "string", Who: c.complete(who)}, flag}
	answer, err := c.exchange(ctx, onePath, body, requirements{})
	if err == nil {
		_, err = one(answer)
	}
	return err
}

// TrackConversion reports a conversion of a user. It returns nil when Kafka has it, else an *Error.
func (c *Client) TrackConversion(ctx context.Context, conversion Conversion, who Who) error {
	if who.UserID == "" {
		return &Error{Kind: InvalidRequest, Detail: "a conversion needs a user"}
	}
	occurredAt := conversion.OccurredAt
	if occurredAt.IsZero() {
		occurredAt = time.Now()
	}
	body := conversionBody{UserID: who.UserID, Metric: conversion.Metric, Value: conversion.Value,
		OccurredAt: occurredAt.UTC().Format("2006-01-02T15:04:05.000000Z"), EventID: eventID(conversion.EventID), Metadata: conversion.Metadata}
	path := "/api/v1/experiments/" + url.PathEscape(conversion.Experiment) + "/conversions" + c.inEnvironment(who)
	_, err := c.exchange(ctx, path, body, requirements{})
	return err
}

// Track reports a metric for every running experiment that has it (experimental). A nil value is none.
func (c *Client) Track(ctx context.Context, metric string, who Who, value *float64) error {
	return c.TrackEvent(ctx, Event{Metric: metric, Value: value}, who)
}

// TrackEvent reports an event, which counts as a conversion in every running experiment that has its metric (experimental).
func (c *Client) TrackEvent(ctx context.Context, event Event, who Who) error {
	if err := event.check(); err != nil {
		return err
	}
	details := map[string]any{}
	maps.Copy(details, event.Metadata)
	// A retry after a lost answer must not count twice.
	details["eventId"] = eventID(event.EventID)
	if event.Value != nil {
		details["value"] = *event.Value
	}
	tracked := map[string]any{}
	if who.UserID != "" {
		tracked["targetingKey"] = who.UserID
	}
	body := map[string]any{"trackingEventName": event.Metric, "context": tracked, "trackingEventDetails": details}
	_, err := c.exchange(ctx, "/ofrep/v1/track"+c.inEnvironment(who), body, requirements{})
	return err
}

// check refuses metadata that would be read as the event's own members.
func (e Event) check() error {
	for _, name := range []string{"value", "experiment", "eventId", "occurredAt"} {
		if _, isTaken := e.Metadata[name]; isTaken {
			return &Error{Kind: InvalidRequest, Detail: "metadata: not possible in a tracking event: " + name}
		}
	}
	return nil
}

func (c *Client) inEnvironment(who Who) string {
	environment := c.complete(who).Environment
	if environment == "" {
		return ""
	}
	return "?" + url.Values{"environment": {environment}}.Encode()
}

func eventID(given string) string {
	if given != "" {
		return given
	}
	var id [16]byte
	// It does not fail on any supported system.
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

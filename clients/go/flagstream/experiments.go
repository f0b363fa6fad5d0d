package flagstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
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
}

// WithValue returns a copy with a value.
func (c Conversion) WithValue(value float64) Conversion {
	c.Value = &value
	return c
}

// conversionBody is a conversion as it crosses the wire.
type conversionBody struct {
	UserID     string   `json:"user_id"`
	Metric     string   `json:"metric"`
	Value      *float64 `json:"value,omitempty"`
	OccurredAt string   `json:"occurred_at"`
	EventID    string   `json:"event_id"`
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
		OccurredAt: occurredAt.UTC().Format("2006-01-02T15:04:05.000000Z"), EventID: eventID(conversion.EventID)}
	path := "/api/v1/experiments/" + url.PathEscape(conversion.Experiment) + "/conversions" + c.inEnvironment(who)
	_, err := c.exchange(ctx, path, body, requirements{})
	return err
}

// Track reports a metric for every running experiment that has it (experimental). A nil value is none.
func (c *Client) Track(ctx context.Context, metric string, who Who, value *float64) error {
	// A retry after a lost answer must not count twice.
	details := map[string]any{"eventId": eventID("")}
	if value != nil {
		details["value"] = *value
	}
	tracked := map[string]any{}
	if who.UserID != "" {
		tracked["targetingKey"] = who.UserID
	}
	body := map[string]any{"trackingEventName": metric, "context": tracked, "trackingEventDetails": details}
	_, err := c.exchange(ctx, "/ofrep/v1/track"+c.inEnvironment(who), body, requirements{})
	return err
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

package flagstream

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// Flags are the calls of a client. Code that takes a *Client or a *Mock declares this type.
type Flags interface {
	IsEnabled(ctx context.Context, flag string, who Who, value bool) bool
	EvaluateFlag(ctx context.Context, flag string, who Who, one One) any
	BatchEvaluate(ctx context.Context, flags []string, who Who, value bool) map[string]bool
	BulkEvaluateFlags(ctx context.Context, flags []string, who Who, many Many) map[string]Evaluation
	GetVariant(ctx context.Context, flag string, who Who, variant string) string
	Evaluate(ctx context.Context, flag string, who Who, asked One) (Evaluation, error)
	EvaluateMany(ctx context.Context, flags []string, who Who, asked Many) (map[string]Evaluation, error)
	TrackExposure(ctx context.Context, flag string, who Who) error
	TrackConversion(ctx context.Context, conversion Conversion, who Who) error
	Track(ctx context.Context, metric string, who Who, value *float64) error
	TrackEvent(ctx context.Context, event Event, who Who) error
	OnChange(listener func(FlagChange)) (stop func())
	OnFollowing(listener func(bool)) (stop func())
	Invalidate(version uint64, environment string)
	ApplyInvalidation(message []byte) bool
	ClearCache()
	IsFollowing() bool
	WaitUntilFollowing(ctx context.Context) error
	Close()
}

var _, _ Flags = (*Client)(nil), (*Mock)(nil)

// Asked is a question that a Mock was asked.
type Asked struct {
	Flag string
	Who  Who
}

// Tracked is a report that a Mock received: an exposure has a Flag, a conversion its members, and an event those of Event, as a
// Conversion without an Experiment.
type Tracked struct {
	Flag       string
	Conversion Conversion
	Who        Who
}

// Mock answers with the values that a test sets, and needs no server. Unknown flags have the default. It remembers what it was
// asked, and what was tracked.
type Mock struct {
	*listeners
	mutex       sync.Mutex
	flags       map[string]any
	variants    map[string]string
	asked       []Asked
	tracked     []Tracked
	isFollowing bool
}

// NewMock takes the value of each flag.
func NewMock(flags map[string]any) *Mock {
	mock := &Mock{listeners: newListeners(), flags: map[string]any{}, variants: map[string]string{}, isFollowing: true}
	for flag, value := range flags {
		mock.flags[flag] = value
	}
	return mock
}

// Set changes a flag, and reports the change to the listeners.
func (m *Mock) Set(flag string, value any) {
	m.change("FEATURE_FLAG_UPDATED", flag, func() { m.flags[flag] = value })
}

// SetVariant sets the variant of a flag, whose value it is too.
func (m *Mock) SetVariant(flag, variant string) {
	m.change("FEATURE_FLAG_UPDATED", flag, func() { m.flags[flag], m.variants[flag] = variant, variant })
}

// Remove removes a flag, and reports the change to the listeners.
func (m *Mock) Remove(flag string) {
	m.change("FEATURE_FLAG_DELETED", flag, func() {
		delete(m.flags, flag)
		delete(m.variants, flag)
	})
}

// SetFor sets a flag until the returned function is called.
func (m *Mock) SetFor(flag string, value any) (restore func()) {
	m.mutex.Lock()
	before, known := m.flags[flag]
	variant, hasVariant := m.variants[flag]
	m.mutex.Unlock()
	m.change("FEATURE_FLAG_UPDATED", flag, func() {
		m.flags[flag] = value
		delete(m.variants, flag)
	})
	return func() {
		if !known {
			m.Remove(flag)
			return
		}
		m.change("FEATURE_FLAG_UPDATED", flag, func() {
			m.flags[flag] = before
			if hasVariant {
				m.variants[flag] = variant
			}
		})
	}
}

// SetFollowing sets whether changes arrive, and reports it to the listeners.
func (m *Mock) SetFollowing(isFollowing bool) {
	m.mutex.Lock()
	m.isFollowing = isFollowing
	m.mutex.Unlock()
	m.follows(isFollowing)
}

// Asked returns all questions, in order.
func (m *Mock) Asked() []Asked {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.asked)
}

// Tracked returns all exposures, conversions and events, in order.
func (m *Mock) Tracked() []Tracked {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.tracked)
}

func (m *Mock) IsEnabled(ctx context.Context, flag string, who Who, value bool) bool {
	enabled, err := m.say(flag, who, value).boolean()
	return (err == nil && enabled) || (err != nil && value)
}

func (m *Mock) EvaluateFlag(ctx context.Context, flag string, who Who, one One) any {
	return m.say(flag, who, one.Default).Any()
}

func (m *Mock) BatchEvaluate(ctx context.Context, flags []string, who Who, value bool) map[string]bool {
	said := make(map[string]bool, len(flags))
	for _, flag := range flags {
		said[flag] = m.IsEnabled(ctx, flag, who, value)
	}
	return said
}

func (m *Mock) BulkEvaluateFlags(ctx context.Context, flags []string, who Who, many Many) map[string]Evaluation {
	said := make(map[string]Evaluation, len(flags))
	for _, flag := range flags {
		said[flag] = m.say(flag, who, many.Defaults[flag])
	}
	return said
}

func (m *Mock) GetVariant(ctx context.Context, flag string, who Who, variant string) string {
	if found := m.say(flag, who, nil).Variant; found != "" {
		return found
	}
	return variant
}

func (m *Mock) Evaluate(ctx context.Context, flag string, who Who, asked One) (Evaluation, error) {
	return m.say(flag, who, asked.Default), nil
}

func (m *Mock) EvaluateMany(ctx context.Context, flags []string, who Who, asked Many) (map[string]Evaluation, error) {
	return m.BulkEvaluateFlags(ctx, flags, who, asked), nil
}

func (m *Mock) TrackExposure(ctx context.Context, flag string, who Who) error {
	return m.track(Tracked{Flag: flag, Who: who})
}

func (m *Mock) TrackConversion(ctx context.Context, conversion Conversion, who Who) error {
	if who.UserID == "" {
		return &Error{Kind: InvalidRequest, Detail: "a conversion needs a user"}
	}
	return m.track(Tracked{Conversion: conversion, Who: who})
}

func (m *Mock) Track(ctx context.Context, metric string, who Who, value *float64) error {
	return m.TrackEvent(ctx, Event{Metric: metric, Value: value}, who)
}

func (m *Mock) TrackEvent(ctx context.Context, event Event, who Who) error {
	if err := event.check(); err != nil {
		return err
	}
	conversion := Conversion{Metric: event.Metric, Value: event.Value, EventID: event.EventID, Metadata: event.Metadata}
	return m.track(Tracked{Conversion: conversion, Who: who})
}

// Invalidate calls the listeners.
func (m *Mock) Invalidate(version uint64, environment string) {
	m.changed(FlagChange{Type: "RESET", Environment: environment, Version: version})
}

// ApplyInvalidation calls the listeners.
func (m *Mock) ApplyInvalidation(message []byte) bool {
	change, isChange := parseChange(message)
	if isChange {
		m.changed(change)
	}
	return isChange
}

// ClearCache does nothing: nothing is cached.
func (m *Mock) ClearCache() {}

func (m *Mock) IsFollowing() bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.isFollowing
}

// WaitUntilFollowing returns at once.
func (m *Mock) WaitUntilFollowing(ctx context.Context) error { return ctx.Err() }

// Close does nothing: nothing is open.
func (m *Mock) Close() {}

func (m *Mock) change(event, flag string, set func()) {
	m.mutex.Lock()
	set()
	m.mutex.Unlock()
	m.changed(FlagChange{Type: event, FlagName: flag, Version: uint64(time.Now().UnixMilli())})
}

func (m *Mock) track(tracked Tracked) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.tracked = append(m.tracked, tracked)
	return nil
}

func (m *Mock) say(flag string, who Who, value any) Evaluation {
	m.mutex.Lock()
	m.asked = append(m.asked, Asked{flag, who})
	set, known := m.flags[flag]
	variant := m.variants[flag]
	m.mutex.Unlock()
	evaluation := Evaluation{FlagName: flag, Reason: "DEFAULT", ErrorCode: "FLAG_NOT_FOUND", ErrorMessage: "the mock has no flag of this name"}
	if known {
		value = set
		evaluation = Evaluation{FlagName: flag, Enabled: set != false, Variant: variant, Reason: "TARGETING_MATCH", FlagVersion: 1, FlagsVersion: 1}
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		// A mistake of the test that made the mock.
		panic(err)
	}
	evaluation.Value = encoded
	return evaluation
}

package flagstream

import (
	"context"
	"encoding/json"
	"sync"
)

// Flags is what services ask through: a *Client, or in their tests a *Mock.
type Flags interface {
	IsEnabled(ctx context.Context, flag string, who Who, value bool) bool
	EvaluateFlag(ctx context.Context, flag string, who Who, one One) any
	BatchEvaluate(ctx context.Context, flags []string, who Who, value bool) map[string]bool
	BulkEvaluateFlags(ctx context.Context, flags []string, who Who, many Many) map[string]Evaluation
	Evaluate(ctx context.Context, flag string, who Who, asked One) (Evaluation, error)
	EvaluateMany(ctx context.Context, flags []string, who Who, asked Many) (map[string]Evaluation, error)
}

var _, _ Flags = (*Client)(nil), (*Mock)(nil)

// Mock says what it was told, and asks nobody. Unknown flags get the default.
type Mock struct {
	mutex sync.Mutex
	flags map[string]any
}

// NewMock takes the value of each flag.
func NewMock(flags map[string]any) *Mock {
	mock := &Mock{flags: map[string]any{}}
	for flag, value := range flags {
		mock.flags[flag] = value
	}
	return mock
}

// Set changes a flag.
func (m *Mock) Set(flag string, value any) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.flags[flag] = value
}

func (m *Mock) IsEnabled(ctx context.Context, flag string, who Who, value bool) bool {
	enabled, err := m.say(flag, value).boolean()
	return (err == nil && enabled) || (err != nil && value)
}

func (m *Mock) EvaluateFlag(ctx context.Context, flag string, who Who, one One) any {
	return m.say(flag, one.Default).Any()
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
		said[flag] = m.say(flag, many.Defaults[flag])
	}
	return said
}

func (m *Mock) Evaluate(ctx context.Context, flag string, who Who, asked One) (Evaluation, error) {
	return m.say(flag, asked.Default), nil
}

func (m *Mock) EvaluateMany(ctx context.Context, flags []string, who Who, asked Many) (map[string]Evaluation, error) {
	return m.BulkEvaluateFlags(ctx, flags, who, asked), nil
}

func (m *Mock) say(flag string, value any) Evaluation {
	m.mutex.Lock()
	told, known := m.flags[flag]
	m.mutex.Unlock()
	evaluation := Evaluation{FlagName: flag, Reason: "DEFAULT", ErrorCode: "FLAG_NOT_FOUND"}
	if known {
		value = told
		evaluation = Evaluation{FlagName: flag, Enabled: told != false, Reason: "TARGETING_MATCH"}
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		// A mistake of the test that made the mock.
		panic(err)
	}
	evaluation.Value = encoded
	return evaluation
}

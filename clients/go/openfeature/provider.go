// Package openfeature is OpenFeature's provider for flagstream.
//
//	flags, err := flagstream.New("http://flagstream:8082", flagstream.Options{FollowChanges: true})
//	if err != nil {
//		return err
//	}
//	err = openfeature.SetProviderAndWait(provider.New(flags))
package openfeature

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	sdk "github.com/open-feature/go-sdk/openfeature"

	"flagstream.dev/clients/go/flagstream"
)

// maxEvents: further events are dropped while so many wait for the SDK.
const maxEvents = 100

// Provider evaluates with flagstream. Unlike OFREP it sends the requested type, so that a text "5" is a number where a number is
// asked for. Caching is that of the client; with FollowChanges each change becomes the event PROVIDER_CONFIGURATION_CHANGED, and the
// provider is stale while changes do not arrive.
//
// The targeting key is the user; session_id in the context is the session. A tracking event counts as a conversion in each running
// experiment that has a metric of its name, or only in that of its attribute experiment. Its value 0 is none.
type Provider struct {
	flags  flagstream.Flags
	events chan sdk.Event
	stops  []func()
}

var (
	_ sdk.FeatureProvider = (*Provider)(nil)
	_ sdk.StateHandler    = (*Provider)(nil)
	_ sdk.EventHandler    = (*Provider)(nil)
	_ sdk.Tracker         = (*Provider)(nil)
)

// New returns a provider with a client or a mock, which it closes when it is shut down.
func New(flags flagstream.Flags) *Provider {
	return &Provider{flags: flags, events: make(chan sdk.Event, maxEvents)}
}

func (p *Provider) Metadata() sdk.Metadata { return sdk.Metadata{Name: "flagstream"} }

func (p *Provider) Hooks() []sdk.Hook { return nil }

// Init begins to report changes.
func (p *Provider) Init(sdk.EvaluationContext) error {
	if len(p.stops) == 0 {
		p.stops = []func(){p.flags.OnChange(p.changed), p.flags.OnFollowing(p.following)}
	}
	return nil
}

// Shutdown closes the client.
func (p *Provider) Shutdown() {
	for _, stop := range p.stops {
		stop()
	}
	p.stops = nil
	p.flags.Close()
}

func (p *Provider) EventChannel() <-chan sdk.Event { return p.events }

func (p *Provider) BooleanEvaluation(ctx context.Context, flag string, value bool, context sdk.FlattenedContext) sdk.BoolResolutionDetail {
	said, detail := resolve(ctx, p.flags, flag, "boolean", value, context)
	return sdk.BoolResolutionDetail{Value: said, ProviderResolutionDetail: detail}
}

func (p *Provider) StringEvaluation(ctx context.Context, flag string, value string, context sdk.FlattenedContext) sdk.StringResolutionDetail {
	said, detail := resolve(ctx, p.flags, flag, "string", value, context)
	return sdk.StringResolutionDetail{Value: said, ProviderResolutionDetail: detail}
}

func (p *Provider) FloatEvaluation(ctx context.Context, flag string, value float64, context sdk.FlattenedContext) sdk.FloatResolutionDetail {
	said, detail := resolve(ctx, p.flags, flag, "float", value, context)
	return sdk.FloatResolutionDetail{Value: said, ProviderResolutionDetail: detail}
}

func (p *Provider) IntEvaluation(ctx context.Context, flag string, value int64, context sdk.FlattenedContext) sdk.IntResolutionDetail {
	said, detail := resolve(ctx, p.flags, flag, "integer", value, context)
	return sdk.IntResolutionDetail{Value: said, ProviderResolutionDetail: detail}
}

func (p *Provider) ObjectEvaluation(ctx context.Context, flag string, value any, context sdk.FlattenedContext) sdk.InterfaceResolutionDetail {
	said, detail := resolve(ctx, p.flags, flag, "object", value, context)
	return sdk.InterfaceResolutionDetail{Value: said, ProviderResolutionDetail: detail}
}

// Track reports a tracking event. The SDK has no place for a failure, so it goes to the log.
func (p *Provider) Track(ctx context.Context, event string, context sdk.EvaluationContext, details sdk.TrackingEventDetails) {
	var value *float64
	if given := details.Value(); given != 0 {
		value = &given
	}
	subject := flagstream.Who{UserID: context.TargetingKey()}
	id, _ := details.Attribute("eventId").(string)
	metadata := metadataOf(details)
	experiment, isOne := details.Attribute("experiment").(string)
	if !isOne {
		tracked := flagstream.Event{Metric: event, Value: value, EventID: id, Metadata: metadata}
		report(event, p.flags.TrackEvent(ctx, tracked, subject))
		return
	}
	conversion := flagstream.Conversion{Experiment: experiment, Metric: event, Value: value, EventID: id, Metadata: metadata}
	report(event, p.flags.TrackConversion(ctx, conversion, subject))
}

// metadataOf returns the details that are not members of the event itself, or nil without any.
func metadataOf(details sdk.TrackingEventDetails) map[string]any {
	others := details.Attributes()
	for _, name := range []string{"value", "experiment", "eventId", "occurredAt"} {
		delete(others, name)
	}
	if len(others) == 0 {
		return nil
	}
	return others
}

func resolve[T any](ctx context.Context, flags flagstream.Flags, flag, valueType string, value T, context sdk.FlattenedContext) (T, sdk.ProviderResolutionDetail) {
	answer, err := flags.Evaluate(ctx, flag, who(context), flagstream.One{Default: value, ValueType: valueType})
	if err != nil {
		var failure *flagstream.Error
		if errors.As(err, &failure) && failure.Kind == flagstream.InvalidRequest {
			return value, failed(sdk.NewInvalidContextResolutionError(err.Error()))
		}
		return value, failed(sdk.NewGeneralResolutionError(err.Error()))
	}
	if answer.ErrorCode != "" {
		return value, failed(errorOf(answer))
	}
	metadata := sdk.FlagMetadata{"enabled": answer.Enabled, "flagsVersion": int64(answer.FlagsVersion)}
	if answer.FlagVersion != 0 {
		metadata["version"] = int64(answer.FlagVersion)
	}
	detail := sdk.ProviderResolutionDetail{Reason: sdk.Reason(answer.Reason), Variant: answer.Variant, FlagMetadata: metadata}
	if answer.Cached {
		detail.Reason = sdk.CachedReason
	}
	if string(answer.Value) == "null" {
		return value, detail
	}
	var said T
	if json.Unmarshal(answer.Value, &said) != nil {
		return value, failed(sdk.NewTypeMismatchResolutionError(fmt.Sprintf("%s: %s is not of type %s", flag, answer.Value, valueType)))
	}
	return said, detail
}

func failed(err sdk.ResolutionError) sdk.ProviderResolutionDetail {
	return sdk.ProviderResolutionDetail{ResolutionError: err, Reason: sdk.ErrorReason}
}

func errorOf(answer flagstream.Evaluation) sdk.ResolutionError {
	switch sdk.ErrorCode(answer.ErrorCode) {
	case sdk.FlagNotFoundCode:
		return sdk.NewFlagNotFoundResolutionError(answer.ErrorMessage)
	case sdk.TypeMismatchCode:
		return sdk.NewTypeMismatchResolutionError(answer.ErrorMessage)
	case sdk.ProviderNotReadyCode:
		return sdk.NewProviderNotReadyResolutionError(answer.ErrorMessage)
	}
	return sdk.NewGeneralResolutionError(answer.ErrorMessage)
}

func who(context sdk.FlattenedContext) flagstream.Who {
	attributes := maps.Clone(map[string]any(context))
	user, _ := attributes[sdk.TargetingKey].(string)
	delete(attributes, sdk.TargetingKey)
	return flagstream.Who{UserID: user, Context: attributes}
}

func (p *Provider) changed(change flagstream.FlagChange) {
	var names []string
	if change.FlagName != "" {
		names = []string{change.FlagName}
	}
	metadata := map[string]any{"version": change.Version}
	p.emit(sdk.ProviderConfigChange, sdk.ProviderEventDetails{Message: change.Type, FlagChanges: names, EventMetadata: metadata})
}

func (p *Provider) following(isFollowing bool) {
	if isFollowing {
		p.emit(sdk.ProviderReady, sdk.ProviderEventDetails{Message: "changes arrive"})
	} else {
		p.emit(sdk.ProviderStale, sdk.ProviderEventDetails{Message: "changes do not arrive: cached answers may be outdated"})
	}
}

func (p *Provider) emit(event sdk.EventType, details sdk.ProviderEventDetails) {
	select {
	case p.events <- sdk.Event{ProviderName: "flagstream", EventType: event, ProviderEventDetails: details}:
	default:
		// The SDK does not read events, as before Init and after Shutdown.
	}
}

func report(event string, err error) {
	if err != nil {
		slog.Warn("flagstream: a tracking event was not accepted", "event", event, "error", err)
	}
}

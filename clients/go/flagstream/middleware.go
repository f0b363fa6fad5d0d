package flagstream

import (
	"context"
	"net"
	"net/http"
)

// RequestOptions say whom the flags of a request are evaluated for. Only a function that trusts its source may name a user: a
// header can be sent by anyone.
type RequestOptions struct {
	User    func(*http.Request) string // by default no user
	Session func(*http.Request) string // by default no session
	// Resolve replaces all of it.
	Resolve func(*http.Request) Who
}

// RequestFlags are the calls of a client, for the user of a request.
type RequestFlags struct {
	flags   Flags
	request *http.Request
	resolve func(*http.Request) Who
}

type requestKey struct{}

// Middleware gives each request the flags of its user; handlers get them by [FromContext]. By default the context of an
// evaluation has remoteAddress and userAgent.
func Middleware(flags Flags, options RequestOptions) func(http.Handler) http.Handler {
	resolve := options.Resolve
	if resolve == nil {
		resolve = options.who
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
			own := &RequestFlags{flags: flags, request: request, resolve: resolve}
			next.ServeHTTP(writer, request.WithContext(context.WithValue(request.Context(), requestKey{}, own)))
		})
	}
}

// FromContext returns the flags of the current request, or nil without [Middleware].
func FromContext(ctx context.Context) *RequestFlags {
	own, _ := ctx.Value(requestKey{}).(*RequestFlags)
	return own
}

// Who is the user of the request, which is determined when a call is made.
func (r *RequestFlags) Who() Who { return r.resolve(r.request) }

func (r *RequestFlags) IsEnabled(ctx context.Context, flag string, value bool) bool {
	return r.flags.IsEnabled(ctx, flag, r.Who(), value)
}

func (r *RequestFlags) EvaluateFlag(ctx context.Context, flag string, one One) any {
	return r.flags.EvaluateFlag(ctx, flag, r.Who(), one)
}

func (r *RequestFlags) BatchEvaluate(ctx context.Context, flags []string, value bool) map[string]bool {
	return r.flags.BatchEvaluate(ctx, flags, r.Who(), value)
}

func (r *RequestFlags) GetVariant(ctx context.Context, flag, variant string) string {
	return r.flags.GetVariant(ctx, flag, r.Who(), variant)
}

func (r *RequestFlags) TrackExposure(ctx context.Context, flag string) error {
	return r.flags.TrackExposure(ctx, flag, r.Who())
}

func (r *RequestFlags) TrackConversion(ctx context.Context, conversion Conversion) error {
	return r.flags.TrackConversion(ctx, conversion, r.Who())
}

func (o RequestOptions) who(request *http.Request) Who {
	who := Who{Context: map[string]any{}}
	if o.User != nil {
		who.UserID = o.User(request)
	}
	if o.Session != nil {
		who.SessionID = o.Session(request)
	}
	if host, _, err := net.SplitHostPort(request.RemoteAddr); err == nil {
		who.Context["remoteAddress"] = host
	}
	if agent := request.UserAgent(); agent != "" {
		who.Context["userAgent"] = agent
	}
	return who
}

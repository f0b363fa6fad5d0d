import * as types from './types.js';

/** Evaluates flags over HTTP. Create one client for the whole process, and close it. */
declare class FeatureFlagsClient extends types.FeatureFlagsClient {}
declare namespace FeatureFlagsClient {
  export { FeatureFlagsClient, FeatureFlagsClient as default };
  export import FlagstreamError = types.FlagstreamError;
  export import MockFeatureFlagsClient = types.MockFeatureFlagsClient;
  export import mockFlag = types.mockFlag;
  export type Flags = types.Flags;
  export type Json = types.Json;
  export type ValueType = types.ValueType;
  export type Kind = types.Kind;
  export type Evaluation<T extends types.Json = types.Json> = types.Evaluation<T>;
  export type FlagChange = types.FlagChange;
  export type RedisClient = types.RedisClient;
  export type RedisStore = types.RedisStore;
  export type CommonOptions = types.CommonOptions;
  export type Options = types.Options;
  export type Who = types.Who;
  export type OneOptions = types.OneOptions;
  export type ManyOptions = types.ManyOptions;
  export type Version = types.Version;
  export type TrackOptions = types.TrackOptions;
  export type ConversionOptions = types.ConversionOptions;
  export type User = types.User;
}
export = FeatureFlagsClient;

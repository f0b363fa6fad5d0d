//! The common part of both providers: one generic evaluation for OpenFeature's five value types.

use open_feature::provider::ResolutionDetails;
use open_feature::{EvaluationContext, EvaluationResult};

use crate::answer::Asked;

/// Evaluates a flag as any supported type.
pub(crate) trait Resolve {
    fn resolve<T: Asked>(
        &self,
        flag: &str,
        context: &EvaluationContext,
    ) -> impl Future<Output = EvaluationResult<ResolutionDetails<T>>> + Send;
}

/// Implements `FeatureProvider` for a [`Resolve`] type. The braces contain the other methods of the trait.
macro_rules! feature_provider {
    ($provider:ty { $($others:tt)* }) => {
        $crate::provider::feature_provider! { $provider { $($others)* }
            resolve_bool_value bool,
            resolve_int_value i64,
            resolve_float_value f64,
            resolve_string_value String,
            resolve_struct_value open_feature::StructValue
        }
    };
    ($provider:ty { $($others:tt)* } $($method:ident $value:ty),+) => {
        #[open_feature::async_trait]
        impl open_feature::provider::FeatureProvider for $provider {
            $($others)*

            $(async fn $method(
                &self,
                flag_key: &str,
                evaluation_context: &open_feature::EvaluationContext,
            ) -> open_feature::EvaluationResult<open_feature::provider::ResolutionDetails<$value>> {
                $crate::provider::Resolve::resolve(self, flag_key, evaluation_context).await
            })+
        }
    };
}

pub(crate) use feature_provider;

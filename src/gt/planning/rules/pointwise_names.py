"""What PyTorch tags as pointwise; generated: `python -m tests.oracle.sharding.pointwise` writes it anew."""

from __future__ import annotations

TORCH = "2.13.0"
"""The version whose tags these are."""
_NAMES = """
    __ilshift__.Scalar __ilshift__.Tensor __ixor__.Scalar __ixor__.Tensor __lshift__.Scalar __lshift__.Tensor
    __rshift__.Scalar __rshift__.Tensor __xor__.Scalar __xor__.Tensor _conj_physical abs abs.out acos acos.out acos_
    acosh acosh.out acosh_ add.Scalar add.Tensor add.out add_.Scalar add_.Tensor addcdiv addcdiv.out addcdiv_ addcmul
    addcmul.out addcmul_ angle angle.out asin asin.out asin_ asinh asinh.out asinh_ atan atan.out atan2 atan2.out atan2_
    atan_ atanh atanh.out atanh_ bitwise_and.Scalar bitwise_and.Scalar_Tensor bitwise_and.Scalar_out bitwise_and.Tensor
    bitwise_and.Tensor_out bitwise_and_.Scalar bitwise_and_.Tensor bitwise_left_shift.Scalar_Tensor
    bitwise_left_shift.Tensor bitwise_left_shift.Tensor_Scalar bitwise_left_shift.Tensor_Scalar_out
    bitwise_left_shift.Tensor_out bitwise_left_shift_.Tensor bitwise_left_shift_.Tensor_Scalar bitwise_not
    bitwise_not.out bitwise_not_ bitwise_or.Scalar bitwise_or.Scalar_Tensor bitwise_or.Scalar_out bitwise_or.Tensor
    bitwise_or.Tensor_out bitwise_or_.Scalar bitwise_or_.Tensor bitwise_right_shift.Scalar_Tensor
    bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar bitwise_right_shift.Tensor_Scalar_out
    bitwise_right_shift.Tensor_out bitwise_right_shift_.Tensor bitwise_right_shift_.Tensor_Scalar bitwise_xor.Scalar
    bitwise_xor.Scalar_Tensor bitwise_xor.Scalar_out bitwise_xor.Tensor bitwise_xor.Tensor_out bitwise_xor_.Scalar
    bitwise_xor_.Tensor ceil ceil.out ceil_ celu celu_ clamp clamp.Tensor clamp.Tensor_out clamp.out clamp_
    clamp_.Tensor clamp_max clamp_max.Tensor clamp_max.Tensor_out clamp_max.out clamp_max_ clamp_max_.Tensor clamp_min
    clamp_min.Tensor clamp_min.Tensor_out clamp_min.out clamp_min_ clamp_min_.Tensor clip clip.Tensor clip.out clip_
    clip_.Tensor clone conj_physical conj_physical.out conj_physical_ copysign.Scalar copysign.Scalar_out
    copysign.Tensor copysign.out cos cos.out cos_ cosh cosh.out cosh_ deg2rad deg2rad.out deg2rad_ digamma digamma.out
    digamma_ div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode div.out div.out_mode div_.Scalar div_.Scalar_mode
    div_.Tensor div_.Tensor_mode elu elu_ eq.Scalar eq.Scalar_out eq.Tensor eq.Tensor_out erf erf.out erf_ erfc erfc.out
    erfc_ erfinv erfinv.out erfinv_ exp exp.out exp2 exp2.out exp2_ exp_ expm1 expm1.out expm1_ float_power.Scalar
    float_power.Scalar_out float_power.Tensor_Scalar float_power.Tensor_Scalar_out float_power.Tensor_Tensor
    float_power.Tensor_Tensor_out float_power_.Scalar float_power_.Tensor floor floor.out floor_ fmax fmax.out fmin
    fmin.out fmod.Scalar fmod.Scalar_out fmod.Tensor fmod.Tensor_out fmod_.Scalar fmod_.Tensor frac frac.out frac_
    frexp.Tensor frexp.Tensor_out gcd gcd.out ge.Scalar ge.Scalar_out ge.Tensor ge.Tensor_out gelu gelu_backward
    gt.Scalar gt.Scalar_out gt.Tensor gt.Tensor_out hardshrink hardsigmoid hardsigmoid_ hardtanh hardtanh_ heaviside
    heaviside.out hypot hypot.out hypot_ i0 i0.out i0_ igamma igamma.out igamma_ igammac igammac.out igammac_ isfinite
    isinf isnan isneginf isneginf.out isposinf isposinf.out lcm lcm.out ldexp.Tensor ldexp.out ldexp_ le.Scalar
    le.Scalar_out le.Tensor le.Tensor_out leaky_relu leaky_relu_ lerp.Scalar lerp.Scalar_out lerp.Tensor lerp.Tensor_out
    lerp_.Scalar lerp_.Tensor lgamma lgamma.out lgamma_ log log.out log10 log10.out log10_ log1p log1p.out log1p_ log2
    log2.out log2_ log_ logaddexp logaddexp.out logaddexp2 logaddexp2.out logical_and logical_and.out logical_and_
    logical_not logical_not.out logical_not_ logical_or logical_or.out logical_or_ logical_xor logical_xor.out
    logical_xor_ logit logit.out logit_ logit_backward logit_backward.grad_input lt.Scalar lt.Scalar_out lt.Tensor
    lt.Tensor_out masked_fill.Scalar max.other max.out maximum maximum.out min.other min.out minimum minimum.out mish
    mul.Scalar mul.Tensor mul.out mul_.Scalar mul_.Tensor mvlgamma mvlgamma.out mvlgamma_ nan_to_num nan_to_num.out
    nan_to_num_ native_dropout_backward ne.Scalar ne.Scalar_out ne.Tensor ne.Tensor_out neg neg.out neg_ nextafter
    nextafter.out nextafter_ polygamma polygamma.out polygamma_ positive pow.Scalar pow.Scalar_out pow.Tensor_Scalar
    pow.Tensor_Scalar_out pow.Tensor_Tensor pow.Tensor_Tensor_out pow_.Scalar pow_.Tensor rad2deg rad2deg.out rad2deg_
    reciprocal reciprocal.out reciprocal_ relu relu6 relu_ remainder.Scalar remainder.Scalar_Tensor remainder.Scalar_out
    remainder.Tensor remainder.Tensor_out remainder_.Scalar remainder_.Tensor round round.decimals round.decimals_out
    round.out round_ round_.decimals rsqrt rsqrt.out rsqrt_ rsub.Scalar selu selu_ sgn sgn.out sgn_ sigmoid sigmoid.out
    sigmoid_ sigmoid_backward sigmoid_backward.grad_input sign sign.out sign_ signbit signbit.out silu silu.out silu_
    silu_backward silu_backward.grad_input sin sin.out sin_ sinc sinc.out sinc_ sinh sinh.out sinh_ softplus softshrink
    special_airy_ai special_airy_ai.out special_bessel_j0 special_bessel_j0.out special_bessel_j1 special_bessel_j1.out
    special_bessel_y0 special_bessel_y0.out special_bessel_y1 special_bessel_y1.out special_chebyshev_polynomial_t
    special_chebyshev_polynomial_t.n_scalar special_chebyshev_polynomial_t.n_scalar_out
    special_chebyshev_polynomial_t.out special_chebyshev_polynomial_t.x_scalar
    special_chebyshev_polynomial_t.x_scalar_out special_chebyshev_polynomial_u special_chebyshev_polynomial_u.n_scalar
    special_chebyshev_polynomial_u.n_scalar_out special_chebyshev_polynomial_u.out
    special_chebyshev_polynomial_u.x_scalar special_chebyshev_polynomial_u.x_scalar_out special_chebyshev_polynomial_v
    special_chebyshev_polynomial_v.n_scalar special_chebyshev_polynomial_v.n_scalar_out
    special_chebyshev_polynomial_v.out special_chebyshev_polynomial_v.x_scalar
    special_chebyshev_polynomial_v.x_scalar_out special_chebyshev_polynomial_w special_chebyshev_polynomial_w.n_scalar
    special_chebyshev_polynomial_w.n_scalar_out special_chebyshev_polynomial_w.out
    special_chebyshev_polynomial_w.x_scalar special_chebyshev_polynomial_w.x_scalar_out special_entr special_entr.out
    special_erfcx special_erfcx.out special_hermite_polynomial_h special_hermite_polynomial_h.n_scalar
    special_hermite_polynomial_h.n_scalar_out special_hermite_polynomial_h.out special_hermite_polynomial_h.x_scalar
    special_hermite_polynomial_h.x_scalar_out special_hermite_polynomial_he special_hermite_polynomial_he.n_scalar
    special_hermite_polynomial_he.n_scalar_out special_hermite_polynomial_he.out special_hermite_polynomial_he.x_scalar
    special_hermite_polynomial_he.x_scalar_out special_i0e special_i0e.out special_i1 special_i1.out special_i1e
    special_i1e.out special_laguerre_polynomial_l special_laguerre_polynomial_l.n_scalar
    special_laguerre_polynomial_l.n_scalar_out special_laguerre_polynomial_l.out special_laguerre_polynomial_l.x_scalar
    special_laguerre_polynomial_l.x_scalar_out special_legendre_polynomial_p special_legendre_polynomial_p.n_scalar
    special_legendre_polynomial_p.n_scalar_out special_legendre_polynomial_p.out special_legendre_polynomial_p.x_scalar
    special_legendre_polynomial_p.x_scalar_out special_log_ndtr special_log_ndtr.out special_modified_bessel_i0
    special_modified_bessel_i0.out special_modified_bessel_i1 special_modified_bessel_i1.out special_modified_bessel_k0
    special_modified_bessel_k0.out special_modified_bessel_k1 special_modified_bessel_k1.out special_ndtri
    special_ndtri.out special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k0.out
    special_scaled_modified_bessel_k1 special_scaled_modified_bessel_k1.out special_shifted_chebyshev_polynomial_t
    special_shifted_chebyshev_polynomial_t.n_scalar special_shifted_chebyshev_polynomial_t.n_scalar_out
    special_shifted_chebyshev_polynomial_t.out special_shifted_chebyshev_polynomial_t.x_scalar
    special_shifted_chebyshev_polynomial_t.x_scalar_out special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_u.n_scalar special_shifted_chebyshev_polynomial_u.n_scalar_out
    special_shifted_chebyshev_polynomial_u.out special_shifted_chebyshev_polynomial_u.x_scalar
    special_shifted_chebyshev_polynomial_u.x_scalar_out special_shifted_chebyshev_polynomial_v
    special_shifted_chebyshev_polynomial_v.n_scalar special_shifted_chebyshev_polynomial_v.n_scalar_out
    special_shifted_chebyshev_polynomial_v.out special_shifted_chebyshev_polynomial_v.x_scalar
    special_shifted_chebyshev_polynomial_v.x_scalar_out special_shifted_chebyshev_polynomial_w
    special_shifted_chebyshev_polynomial_w.n_scalar special_shifted_chebyshev_polynomial_w.n_scalar_out
    special_shifted_chebyshev_polynomial_w.out special_shifted_chebyshev_polynomial_w.x_scalar
    special_shifted_chebyshev_polynomial_w.x_scalar_out special_spherical_bessel_j0 special_spherical_bessel_j0.out
    special_xlog1py special_xlog1py.other_scalar special_xlog1py.other_scalar_out special_xlog1py.out
    special_xlog1py.self_scalar special_xlog1py.self_scalar_out special_zeta special_zeta.other_scalar
    special_zeta.other_scalar_out special_zeta.out special_zeta.self_scalar special_zeta.self_scalar_out sqrt sqrt.out
    sqrt_ square square.out square_ sub.Scalar sub.Tensor sub.out sub_.Scalar sub_.Tensor tan tan.out tan_ tanh tanh.out
    tanh_ tanh_backward tanh_backward.grad_input threshold threshold_backward true_divide.Tensor trunc trunc.out trunc_
    where.self xlogy.OutScalar_Other xlogy.OutScalar_Self xlogy.OutTensor xlogy.Scalar_Other xlogy.Scalar_Self
    xlogy.Tensor xlogy_.Tensor
"""
TAGGED = frozenset(_NAMES.split())
"""Overloads, without `aten::`: each result's element depends on the operands' elements at its place alone."""

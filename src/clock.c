/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  The time, as everything but a timeout of HTTP sees it.
 *
 * mailchimp_sync.clock_offset is added to the server's time, so that tests and
 * rehearsals move through weeks of tiers and rests without waiting. Months and
 * days are added in UTC: two sessions with different time zones must agree
 * what time it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "mailchimp_sync.h"

PG_FUNCTION_INFO_V1(mc_clock);

/*
 * A timestamptz counts in UTC from the same instant as a timestamp does, so
 * adding to it as if it were the latter never asks for the session's time zone.
 */
TimestampTz
mc_add_offset(TimestampTz time, const Interval *offset)
{
	return DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval, TimestampGetDatum(time),
												 IntervalPGetDatum(offset)));
}

TimestampTz
mc_clock_now(void)
{
	return mc_add_offset(GetCurrentTimestamp(), &mc_clock_offset);
}

/* the start of the transaction, the same for all that it writes */
TimestampTz
mc_clock_transaction(void)
{
	return mc_add_offset(GetCurrentTransactionStartTimestamp(), &mc_clock_offset);
}

/* clock() */
Datum
mc_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(mc_clock_transaction());
}

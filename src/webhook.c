/*-------------------------------------------------------------------------
 *
 * webhook.c
 *	  What came to a webhook: who sent it, and what it says (see webhook.sql).
 *
 * The body is anybody's until its signature is proved. So nothing here raises
 * for what it holds, memory is bounded by its size, and the proof takes as long
 * for a wrong signature as for one that is nearly right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hmac.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "mailchimp_sync.h"

/* Seconds since 1970: up to the year 5138 */
#define MAX_TIME_DIGITS 11

PG_FUNCTION_INFO_V1(mc_webhook_signed_at);
PG_FUNCTION_INFO_V1(mc_form_values);

typedef struct Slice
{
	const char *start;
	int len;
} Slice;

/* The value of a hexadecimal digit, -1 if it is none. */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Cuts off what is in front of the separator; false: there was nothing left. */
static bool
next_slice(Slice *rest, char separator, Slice *slice)
{
	const char *end;

	if (rest->start == NULL)
		return false;
	end = memchr(rest->start, separator, rest->len);
	slice->start = rest->start;
	slice->len = end != NULL ? (int) (end - rest->start) : rest->len;
	rest->start = end != NULL ? end + 1 : NULL;
	rest->len -= slice->len + 1;
	return true;
}

/* ---- the signature ---- */

static void
sign(Slice time, Slice body, Slice key, uint8 *mac)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);

	if (context == NULL || pg_hmac_init(context, (const uint8 *) key.start, key.len) < 0 ||
		pg_hmac_update(context, (const uint8 *) time.start, time.len) < 0 ||
		pg_hmac_update(context, (const uint8 *) ".", 1) < 0 ||
		pg_hmac_update(context, (const uint8 *) body.start, body.len) < 0 ||
		pg_hmac_final(context, mac, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute an HMAC");
	pg_hmac_free(context);
}

/* Looks at all of it whatever it finds, so that its time tells nothing. */
static bool
is_mac(Slice hex, const uint8 *mac)
{
	volatile uint8 different = 0;

	if (hex.len != 2 * PG_SHA256_DIGEST_LENGTH)
		return false;
	for (int i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
	{
		int high = hex_value(hex.start[2 * i]);
		int low = hex_value(hex.start[2 * i + 1]);

		different |= (uint8) ((high < 0) | (low < 0));
		different |= (uint8) (((high & 15) << 4 | (low & 15)) ^ mac[i]);
	}
	return different == 0;
}

static bool
read_time(Slice digits, TimestampTz *result)
{
	int64 seconds = 0;

	if (digits.len < 1 || digits.len > MAX_TIME_DIGITS)
		return false;
	for (int i = 0; i < digits.len; i++)
	{
		if (digits.start[i] < '0' || digits.start[i] > '9')
			return false;
		seconds = seconds * 10 + (digits.start[i] - '0');
	}
	seconds -= (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
	*result = seconds * USECS_PER_SEC;
	return true;
}

static bool
starts_with(Slice slice, const char *name)
{
	return slice.len >= (int) strlen(name) && memcmp(slice.start, name, strlen(name)) == 0;
}

static Slice
after(Slice slice, const char *name)
{
	return (Slice){slice.start + strlen(name), slice.len - (int) strlen(name)};
}

static Slice
text_slice(const text *value)
{
	return (Slice){VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value)};
}

/*
 * webhook_signed_at(_body, _signature, _signing_secret): "t=seconds,v1=hex", where the hex is an
 * HMAC-SHA256 over "seconds.body". There may be parts of other versions beside it, and one v1 for each of
 * several secrets; one that fits is enough.
 */
Datum
mc_webhook_signed_at(PG_FUNCTION_ARGS)
{
	Slice body = text_slice(PG_GETARG_TEXT_PP(0));
	Slice signature = text_slice(PG_GETARG_TEXT_PP(1));
	Slice key = text_slice(PG_GETARG_TEXT_PP(2));
	Slice rest = signature;
	Slice part;
	Slice time = {0};
	uint8 mac[PG_SHA256_DIGEST_LENGTH];
	TimestampTz at;
	bool is_signed = false;

	while (next_slice(&rest, ',', &part))
		if (starts_with(part, "t="))
			time = after(part, "t=");
	if (!read_time(time, &at))
		PG_RETURN_NULL();
	sign(time, body, key, mac);
	rest = signature;
	while (next_slice(&rest, ',', &part))
		if (starts_with(part, "v1="))
			is_signed |= is_mac(after(part, "v1="), mac);
	if (!is_signed)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}

/* ---- the form ---- */

/* A name or value of a form as it was before it was encoded. What is no code stands for itself. */
static Slice
decode(Slice encoded)
{
	char *decoded = palloc(encoded.len + 1);
	int len = 0;

	for (int i = 0; i < encoded.len; i++)
	{
		char c = encoded.start[i];

		if (c == '+')
			c = ' ';
		else if (c == '%' && i + 2 < encoded.len && hex_value(encoded.start[i + 1]) >= 0 &&
				 hex_value(encoded.start[i + 2]) >= 0)
		{
			c = (char) (hex_value(encoded.start[i + 1]) << 4 | hex_value(encoded.start[i + 2]));
			i += 2;
		}
		decoded[len++] = c;
	}
	return (Slice){decoded, len};
}

static bool
is_printable(Slice slice)
{
	for (int i = 0; i < slice.len; i++)
		if (slice.start[i] < ' ' || slice.start[i] > '~')
			return false;
	return true;
}

/* Notes the value of a pair under each name that it has; the first one counts. */
static void
take_pair(Slice pair, const Datum *names, Datum *values, bool *nulls, int n)
{
	Slice encoded;
	Slice name;

	(void) next_slice(&pair, '=', &encoded);
	name = decode(encoded);
	for (int i = 0; i < n; i++)
	{
		Slice wanted = text_slice(DatumGetTextPP(names[i]));
		Slice value;

		if (!nulls[i] || name.len != wanted.len || memcmp(name.start, wanted.start, name.len) != 0)
			continue;
		value = pair.start != NULL ? decode(pair) : (Slice){"", 0};
		if (!is_printable(value))
			continue;
		values[i] = PointerGetDatum(cstring_to_text_with_len(value.start, value.len));
		nulls[i] = false;
	}
	pfree(unconstify(char *, name.start));
}

/* form_values(_body, _names) */
Datum
mc_form_values(PG_FUNCTION_ARGS)
{
	Slice rest = text_slice(PG_GETARG_TEXT_PP(0));
	Slice pair;
	Datum *names;
	Datum *values;
	bool *nulls;
	int n;
	int lower_bound = 1;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	values = palloc0(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
		nulls[i] = true;
	while (next_slice(&rest, '&', &pair))
		take_pair(pair, names, values, nulls, n);
	PG_RETURN_ARRAYTYPE_P(
		construct_md_array(values, nulls, 1, &n, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT));
}

/*-------------------------------------------------------------------------
 *
 * reply.c
 *	  What an answer of Mailchimp means, and the way from its JSON to SQL.
 *
 * Two questions are answered for every finished request. Was there an effect:
 * the outcome, after which writers know whether they may simply try again
 * (see McOutcome in engine.h). What was said: the parsed JSON, and an
 * error's title and detail.
 *
 * An answer counts only if it is complete and in the API's own JSON: an object,
 * and for an error one that says what is wrong. Whatever stands between us and
 * Mailchimp (a CDN, a proxy, a captive portal) answers with something else, and
 * then nobody knows what became of the request; the two exceptions are the
 * refusals that Mailchimp's own front sends without JSON.
 *
 * JSON is UTF-8, the server may use another encoding, and people's names hold
 * anything: no text of Mailchimp's may make us fail, so what the server cannot
 * hold becomes '?' and NUL characters are left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/shortest_dec.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "engine.h"

/* The deepest path of any column is "stats.member_count"; room for more. */
#define MAX_PATH_STEPS 8

typedef struct JsonPath
{
	int nsteps;
	char *steps[MAX_PATH_STEPS];
} JsonPath;

/* A tree of cJSON is malloc memory; this frees it with a memory context. */
typedef struct JsonOwner
{
	MemoryContextCallback callback;
	cJSON *tree;
} JsonOwner;

static void
free_tree(void *arg)
{
	cJSON_Delete(((JsonOwner *) arg)->tree);
}

/* The UTF-16 unit of the four hexadecimal digits at p, -1 if there are none. */
static int
hex_unit(const char *p, const char *end)
{
	int unit = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char c = p[i];

		if (c >= '0' && c <= '9')
			unit = unit * 16 + (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			unit = unit * 16 + ((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	return unit;
}

/* Is there the escape of a low surrogate at p? */
static bool
low_surrogate_follows(const char *p, const char *end)
{
	int unit;

	if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
		return false;
	unit = hex_unit(p + 2, end);
	return unit >= 0xDC00 && unit <= 0xDFFF;
}

/*
 * The same JSON without NUL characters, raw or escaped (cJSON would end the
 * string there), and with '?' for half a surrogate pair (it would refuse the
 * whole text for it; texts that were cut to a length end in one).
 */
static char *
clean_json(const char *text, size_t len, size_t *clean_len)
{
	char *clean = MemoryContextAllocHuge(CurrentMemoryContext, len + 1);
	char *out = clean;
	const char *p = text;
	const char *end = text + len;

	while (p < end)
	{
		size_t n = 1; /* bytes to keep */
		int unit;

		if (*p == '\\' && end - p >= 2)
		{
			n = 2;
			if (p[1] == 'u' && (unit = hex_unit(p + 2, end)) >= 0)
			{
				n = 6;
				if (unit >= 0xD800 && unit <= 0xDBFF && low_surrogate_follows(p + 6, end))
					n = 12;
				else if (unit == 0 || (unit >= 0xD800 && unit <= 0xDFFF))
				{
					if (unit != 0)
						*out++ = '?';
					p += 6;
					continue;
				}
			}
		}
		else if (*p == '\0')
		{
			p++;
			continue;
		}
		memcpy(out, p, n);
		out += n;
		p += n;
	}
	*out = '\0';
	*clean_len = out - clean;
	return clean;
}

/* The tree, which lives as long as the current memory context; NULL: no JSON object. */
static cJSON *
parse_object(const char *text, size_t len)
{
	JsonOwner *owner = palloc0(sizeof(JsonOwner));
	size_t clean_len;
	char *clean = clean_json(text, len, &clean_len);

	owner->callback.func = free_tree;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owner->callback);

	/* The length takes in the closing zero, which makes it refuse what follows the value. */
	owner->tree = cJSON_ParseWithLengthOpts(clean, clean_len + 1, NULL, true);
	pfree(clean);
	return cJSON_IsObject(owner->tree) ? owner->tree : NULL;
}

/* Appends UTF-8 with '?' for what is no UTF-8. */
static void
append_valid_utf8(StringInfo out, const char *s, int len)
{
	while (len > 0)
	{
		int valid = pg_encoding_verifymbstr(PG_UTF8, s, len);

		appendBinaryStringInfo(out, s, valid);
		s += valid;
		len -= valid;
		if (len == 0)
			break;

		/* one mark for a broken character, not one for each of its bytes */
		appendStringInfoChar(out, '?');
		do
		{
			s++;
			len--;
		} while (len > 0 && (*s & 0xC0) == 0x80);
	}
}

/* Valid UTF-8 in the server's encoding. Needs a transaction, for the conversion is a function. */
static char *
convert_utf8(char *s, int len)
{
	int encoding = GetDatabaseEncoding();
	Oid conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	Size size = ((Size) len + 1) * MAX_CONVERSION_GROWTH + 1;
	unsigned char *converted = palloc(size);
	StringInfoData out;

	Assert(IsTransactionState());
	initStringInfo(&out);
	while (len > 0)
	{
		int done = 0;

		if (OidIsValid(conversion))
		{
			done = pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding, (unsigned char *) s,
												 len, converted, size, true);
			appendStringInfoString(&out, (char *) converted);
		}
		s += done;
		len -= done;
		if (len > 0)
		{
			int skip = Min(pg_utf_mblen((unsigned char *) s), len);

			/* without a conversion, ASCII is what every server encoding has */
			appendStringInfoChar(&out, IS_HIGHBIT_SET(*s) ? '?' : *s);
			s += skip;
			len -= skip;
		}
	}
	pfree(converted);
	return out.data;
}

/* A copy of Mailchimp's text in the server's encoding. */
static char *
server_text(const char *utf8)
{
	int len = strlen(utf8);
	StringInfoData valid;

	initStringInfo(&valid);
	append_valid_utf8(&valid, utf8, len);
	if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
		return valid.data;
	return convert_utf8(valid.data, valid.len);
}

static void
split_path(const char *path, JsonPath *result)
{
	char *rest = pstrdup(path);

	result->nsteps = 0;
	for (char *step; (step = strsep(&rest, ".")) != NULL;)
	{
		if (result->nsteps == MAX_PATH_STEPS)
			elog(ERROR, "path \"%s\" is too deep", path);
		result->steps[result->nsteps++] = step;
	}
}

static const cJSON *
follow_path(const cJSON *item, const JsonPath *path)
{
	for (int i = 0; i < path->nsteps && item != NULL; i++)
		item = cJSON_GetObjectItemCaseSensitive(item, path->steps[i]);
	return item;
}

/* Whole numbers as such, whatever their size: ids must not come as 1e+15. */
static char *
number_text(double value)
{
	char buffer[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (value == rint(value) && fabs(value) < 1e18)
		return psprintf(INT64_FORMAT, (int64) value);
	double_to_shortest_decimal_buf(value, buffer);
	return pstrdup(buffer);
}

/* A value as text; NULL for what is missing or null, the JSON of objects and arrays. */
static char *
item_text(const cJSON *item)
{
	char *json;
	char *result;

	if (item == NULL || cJSON_IsNull(item))
		return NULL;
	if (cJSON_IsString(item))
		return server_text(item->valuestring);
	if (cJSON_IsNumber(item))
		return number_text(item->valuedouble);
	if (cJSON_IsBool(item))
		return pstrdup(cJSON_IsTrue(item) ? "true" : "false");

	json = cJSON_PrintUnformatted(item);
	if (json == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	PG_TRY();
	{
		result = server_text(json);
	}
	PG_FINALLY();
	{
		cJSON_free(json);
	}
	PG_END_TRY();
	return result;
}

char *
mc_json_print(const cJSON *item)
{
	return item_text(item);
}

McArg
mc_json_column(const cJSON *array, const char *path)
{
	JsonPath steps;
	char **values = palloc(sizeof(char *) * (cJSON_GetArraySize(array) + 1));
	const cJSON *item;
	int n = 0;

	split_path(path, &steps);
	cJSON_ArrayForEach(item, array)
	{
		values[n++] = item_text(follow_path(item, &steps));
	}
	return mc_arg_text_array(values, n);
}

char *
mc_json_text(const cJSON *object, const char *path)
{
	JsonPath steps;

	split_path(path, &steps);
	return item_text(follow_path(object, &steps));
}

McArg
mc_json_text_arg(const cJSON *object, const char *path)
{
	return mc_arg_text(mc_json_text(object, path));
}

McArg
mc_json_int8_arg(const cJSON *object, const char *path)
{
	McArg arg = mc_arg_int8(0);
	JsonPath steps;
	const cJSON *item;

	split_path(path, &steps);
	item = follow_path(object, &steps);
	if (cJSON_IsNumber(item) && item->valuedouble == rint(item->valuedouble) &&
		fabs(item->valuedouble) < 1e18)
		return mc_arg_int8((int64) item->valuedouble);
	arg.isnull = true;
	return arg;
}

pg_noreturn static void raise_missing(const char *what);

static void
raise_missing(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					errmsg("the answer of Mailchimp has no \"%s\"", what)));
}

McArg
mc_json_needed(McArg arg, const char *what)
{
	if (arg.isnull)
		raise_missing(what);
	return arg;
}

const cJSON *
mc_json_needed_array(const cJSON *object, const char *name)
{
	const cJSON *array = cJSON_GetObjectItemCaseSensitive(object, name);

	if (!cJSON_IsArray(array))
		raise_missing(name);
	return array;
}

const char *
mc_outcome_name(McOutcome outcome)
{
	switch (outcome)
	{
		case MC_ANSWERED:
			return "answered";
		case MC_REFUSED:
			return "refused";
		case MC_NOT_SENT:
			return "not_sent";
		case MC_DOUBT:
			return "doubt";
	}
	elog(ERROR, "unknown outcome %d", (int) outcome);
	return NULL; /* keep the compiler quiet */
}

/* Mailchimp's words on what was wrong, the fields that it names included. */
static void
read_problem(McReply *reply)
{
	const cJSON *errors = cJSON_GetObjectItemCaseSensitive(reply->json, "errors");
	const cJSON *error;
	StringInfoData detail;
	char *text;

	reply->title = mc_json_text(reply->json, "title");
	text = mc_json_text(reply->json, "detail");
	initStringInfo(&detail);
	appendStringInfoString(&detail, text != NULL ? text : "");
	cJSON_ArrayForEach(error, errors)
	{
		char *field = mc_json_text(error, "field");
		char *message = mc_json_text(error, "message");

		if (message == NULL)
			continue;
		if (detail.len > 0)
			appendStringInfoChar(&detail, ' ');
		if (field != NULL && field[0] != '\0')
			appendStringInfo(&detail, "%s: ", field);
		appendStringInfoString(&detail, message);
	}
	reply->detail = detail.data;
}

/* Is this error one of the API's own: does it say what is wrong? */
static bool
is_problem(const cJSON *json)
{
	return cJSON_IsString(cJSON_GetObjectItemCaseSensitive(json, "title")) ||
		   cJSON_IsString(cJSON_GetObjectItemCaseSensitive(json, "detail"));
}

/* What came instead of an answer of the API, in words of ours. */
static char *
describe_nonsense(const McHttpRequest *request)
{
	if (request->too_large)
		return psprintf(
			"the answer (HTTP status %d) is larger than mailchimp_sync.max_response allows "
			"(%zu bytes)",
			request->status, request->max_response);
	if (!request->complete)
		return request->error != NULL ? server_text(request->error)
									  : pstrdup("the answer did not arrive");
	if (request->reply_len == 0)
		return psprintf("the answer has no body (HTTP status %d)", request->status);
	if (request->reply[strspn(request->reply, " \t\r\n")] == '<')
		return psprintf(
			"the answer is HTML instead of JSON (HTTP status %d): it comes from a proxy "
			"or a gateway, not from Mailchimp's API",
			request->status);
	return psprintf("the answer is not JSON of Mailchimp's API (HTTP status %d)", request->status);
}

static void
read_nonsense(const McHttpRequest *request, McReply *reply)
{
	if (request->complete && (request->status == 429 || request->status == 403))
	{
		reply->outcome = MC_REFUSED;
		reply->title = pstrdup(request->status == 429 ? "Too Many Requests" : "Forbidden");
		reply->detail = psprintf("Mailchimp answered with HTTP status %d and no reason: "
								 "too many requests at the moment",
								 request->status);
		return;
	}
	reply->outcome = request->sent ? MC_DOUBT : MC_NOT_SENT;
	reply->title = pstrdup(request->sent ? "No usable answer" : "Not sent");
	reply->detail = describe_nonsense(request);
}

/*
 * Reads a finished request. All of the result lives in the current memory
 * context. Needs a transaction, since texts are converted.
 */
McReply *
mc_reply_read(const McHttpRequest *request)
{
	McReply *reply = palloc0(sizeof(McReply));

	Assert(request->finished);
	reply->status = request->status;
	reply->retry_after_s = request->retry_after_s;
	reply->outcome = MC_ANSWERED;
	if (request->complete && request->reply_len > 0)
		reply->json = parse_object(request->reply, request->reply_len);

	if (reply->json != NULL && (request->status < 400 || is_problem(reply->json)))
	{
		if (request->status >= 400)
			read_problem(reply);
	}
	else if (!request->complete || request->reply_len > 0 || request->status < 200 ||
			 request->status > 299)
	{
		reply->json = NULL;
		read_nonsense(request, reply);
	}
	return reply;
}

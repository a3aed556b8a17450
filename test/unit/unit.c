/*-------------------------------------------------------------------------
 *
 * unit.c
 *	  Lets SQL call what lies below SQL: http.h and slot.h.
 *
 * A module of its own that is linked with those files alone (McUnit.pm). Its
 * clock is the server's plus the seconds given to unit_clock().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "../../src/compat.h"
#include "../../src/http.h"
#include "../../src/mailchimp_sync.h"
#include "../../src/slot.h"

PG_MODULE_MAGIC;

static int64 clock_seconds = 0;
static bool wake_at_commit = false;

void _PG_init(void);

PG_FUNCTION_INFO_V1(unit_serial);
PG_FUNCTION_INFO_V1(unit_parallel);
PG_FUNCTION_INFO_V1(unit_latch);
PG_FUNCTION_INFO_V1(unit_files);
PG_FUNCTION_INFO_V1(unit_clock);
PG_FUNCTION_INFO_V1(unit_take);
PG_FUNCTION_INFO_V1(unit_release);
PG_FUNCTION_INFO_V1(unit_haunt);
PG_FUNCTION_INFO_V1(unit_ghost);
PG_FUNCTION_INFO_V1(unit_engine);
PG_FUNCTION_INFO_V1(unit_launcher);
PG_FUNCTION_INFO_V1(unit_launcher_wake);
PG_FUNCTION_INFO_V1(unit_launcher_asked);
PG_FUNCTION_INFO_V1(unit_engine_of);
PG_FUNCTION_INFO_V1(unit_wake_at_commit);
PG_FUNCTION_INFO_V1(unit_wait);
PG_FUNCTION_INFO_V1(unit_is_woken);

TimestampTz
mc_clock_now(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), clock_seconds * 1000);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	uint32 holdoff = InterruptHoldoffCount;

	if (event != XACT_EVENT_COMMIT || !wake_at_commit)
		return;
	wake_at_commit = false;
	mc_engine_wake(MyDatabaseId);
	if (InterruptHoldoffCount != holdoff)
		elog(PANIC, "mc_engine_wake changed InterruptHoldoffCount");
}

void
_PG_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		mc_shared_request();
	RegisterXactCallback(at_transaction_end, NULL);
}

/* ---------- http.h ---------- */

/* "METHOD url", with a body of so many bytes unless that is negative */
static McHttpRequest *
make_request(Datum line, int body, int timeout_ms, int max_response)
{
	McHttpRequest *request = palloc0(sizeof(McHttpRequest));
	char *method = TextDatumGetCString(line);
	char *space = strchr(method, ' ');

	*space = '\0';
	request->method = method;
	request->url = space + 1;
	request->api_key = "secret-us1";
	if (body >= 0)
	{
		char *text = palloc(body + 1);

		memset(text, 'x', body);
		text[body] = '\0';
		request->body = text;
		request->body_len = body;
	}
	request->connect_timeout_ms = timeout_ms;
	request->timeout_ms = timeout_ms;
	request->max_response = max_response;
	request->context = CurrentMemoryContext;
	return request;
}

static const char *
or_dash(const char *text)
{
	return text != NULL ? text : "-";
}

static void
append_answer(StringInfo out, const McHttpRequest *request)
{
	if (request->finished && strlen(request->reply) != request->reply_len)
		elog(ERROR, "the reply has no zero at its end");
	appendStringInfo(out, "%d%s%s%s %zu %s %s %d %s\n", request->status,
					 request->sent ? " sent" : "", request->complete ? " complete" : "",
					 request->too_large ? " too_large" : "", request->reply_len,
					 or_dash(request->content_type), or_dash(request->request_id),
					 request->retry_after_s, or_dash(request->error));
}

static int
get_lines(Datum array, Datum **lines)
{
	bool *nulls;
	int n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, lines, &nulls,
					  &n);
	return n;
}

/* unit_serial(requests, body, timeout_ms, max_response): one after another; a single one by mc_http_perform */
Datum
unit_serial(PG_FUNCTION_ARGS)
{
	Datum *lines;
	int n = get_lines(PG_GETARG_DATUM(0), &lines);
	McHttp *http = n > 1 ? mc_http_create(CurrentMemoryContext) : NULL;
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < n; i++)
	{
		McHttpRequest *request =
			make_request(lines[i], PG_GETARG_INT32(1), PG_GETARG_INT32(2), PG_GETARG_INT32(3));

		if (http == NULL)
			mc_http_perform(request);
		else
		{
			mc_http_start(http, request);
			while (mc_http_wait(http, -1) == NULL)
				;
		}
		append_answer(&out, request);
	}
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

/*
 * unit_parallel(requests, raise): all at once. After so many answers an error is
 * raised.
 */
Datum
unit_parallel(PG_FUNCTION_ARGS)
{
	Datum *lines;
	int n = get_lines(PG_GETARG_DATUM(0), &lines);
	McHttp *http = mc_http_create(CurrentMemoryContext);
	McHttpRequest **requests = palloc(n * sizeof(McHttpRequest *));
	StringInfoData out;
	int answers = 0;

	initStringInfo(&out);
	for (int i = 0; i < n; i++)
	{
		requests[i] = make_request(lines[i], -1, 60000, 1000);
		mc_http_start(http, requests[i]);
	}
	while (mc_http_running(http) > 0)
	{
		if (mc_http_wait(http, -1) == NULL)
			continue;
		answers++;
		if (answers == PG_GETARG_INT32(1))
			ereport(ERROR, (errcode(ERRCODE_RAISE_EXCEPTION), errmsg("raised")));
	}
	for (int i = 0; i < n; i++)
		append_answer(&out, requests[i]);
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

/* unit_latch(request): a set latch ends a wait, and is not lost where a request is returned */
Datum
unit_latch(PG_FUNCTION_ARGS)
{
	McHttp *http = mc_http_create(CurrentMemoryContext);
	McHttpRequest *request = make_request(PG_GETARG_DATUM(0), -1, 60000, 1000);
	bool woken;
	bool timed_out;
	int wakes = 0;

	SetLatch(MyLatch);
	woken = mc_http_wait(http, -1) == NULL;
	timed_out = mc_http_wait(http, 10) == NULL;
	mc_http_start(http, request);
	do
	{
		SetLatch(MyLatch);
		wakes++;
	} while (mc_http_wait(http, -1) == NULL);
	PG_RETURN_BOOL(woken && timed_out && wakes > 1 && request->complete &&
				   mc_http_wait(http, -1) == NULL);
}

/* how many files this process has open */
Datum
unit_files(PG_FUNCTION_ARGS)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	PG_RETURN_INT32(n);
}

/* ---------- slot.h ---------- */

Datum
unit_clock(PG_FUNCTION_ARGS)
{
	clock_seconds = PG_GETARG_INT32(0);
	PG_RETURN_VOID();
}

Datum
unit_take(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(
		mc_slot_take(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT32(1), PG_GETARG_BOOL(2)));
}

Datum
unit_release(PG_FUNCTION_ARGS)
{
	mc_slot_release(PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}

Datum
unit_haunt(PG_FUNCTION_ARGS)
{
	mc_slot_haunt(PG_GETARG_INT32(0),
				  TimestampTzPlusMilliseconds(mc_clock_now(), PG_GETARG_INT32(1) * 1000L));
	PG_RETURN_VOID();
}

Datum
unit_ghost(PG_FUNCTION_ARGS)
{
	mc_slot_take_ghost(text_to_cstring(PG_GETARG_TEXT_PP(0)),
					   TimestampTzPlusMilliseconds(mc_clock_now(), PG_GETARG_INT32(1) * 1000L));
	PG_RETURN_VOID();
}

/* NULL: no engine any more; else whether it is a worker */
Datum
unit_engine(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		mc_engine_unregister();
	else
		mc_engine_register(PG_GETARG_BOOL(0));
	PG_RETURN_VOID();
}

Datum
unit_launcher(PG_FUNCTION_ARGS)
{
	mc_launcher_register();
	PG_RETURN_VOID();
}

Datum
unit_launcher_wake(PG_FUNCTION_ARGS)
{
	mc_launcher_wake();
	PG_RETURN_VOID();
}

Datum
unit_launcher_asked(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(mc_launcher_asked());
}

Datum
unit_engine_of(PG_FUNCTION_ARGS)
{
	bool is_worker = false;
	int pid = mc_engine_pid(PG_GETARG_OID(0), &is_worker);

	PG_RETURN_TEXT_P(cstring_to_text(pid == 0 ? "none" : is_worker ? "worker" : "session"));
}

Datum
unit_wake_at_commit(PG_FUNCTION_ARGS)
{
	wake_at_commit = true;
	PG_RETURN_VOID();
}

/* Waits until the latch is set from now on; pg_stat_activity shows when that has begun. */
Datum
unit_wait(PG_FUNCTION_ARGS)
{
	ResetLatch(MyLatch);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

/* Whether the latch is set, which it is not afterwards. */
Datum
unit_is_woken(PG_FUNCTION_ARGS)
{
	int events =
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 0, PG_WAIT_EXTENSION);

	ResetLatch(MyLatch);
	PG_RETURN_BOOL((events & WL_LATCH_SET) != 0);
}

/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings mailchimp_sync.*, all of them reloadable.
 *
 * What describes the server (databases, instance) is set in its configuration
 * only. The rest is for superusers (and roles with SET on the parameter), so that
 * ALTER DATABASE works too; nobody else can lift a limit, switch sending on or
 * move the clock. What belongs to one connection lives with the connection.
 *
 * The library may be loaded at any time, with the settings already set as
 * placeholders: nothing here may need a transaction, and a bad value must be
 * reported by the check hook and never raised.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat.h"
#include "mailchimp_sync.h"

char *mc_databases;
bool mc_send = true;
char *mc_instance;
int mc_max_connections = 6;
int mc_batch_size = 500;
int mc_connect_timeout = 10 * 1000;
int mc_request_timeout = 125 * 1000;
int mc_max_response = 64 * 1024;
int mc_expression_timeout = 5 * 1000;
int mc_poll_spread = 30 * 1000;
int mc_log_retention = 7 * SECS_PER_DAY;
int mc_activity_retention = 0;
int mc_signal_retention = 30 * SECS_PER_DAY;
bool mc_store_ip = false;
Interval mc_clock_offset;

static char *clock_offset_text;

/*
 * A list of names, taken as they are written: a database is found by its exact
 * name, quoted or not.
 */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char *copy = pstrdup(*newval);
	List *names = NIL;
	bool valid = SplitGUCList(copy, ',', &names);

	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	list_free(names);
	pfree(copy);
	return valid;
}

/*
 * interval_in knows all spellings but raises, so it gets a boundary of its own:
 * neither it nor the addition touches anything but memory. The sum is tried
 * here, lest every later look at the clock fail.
 */
static bool
check_clock_offset(char **newval, void **extra, GucSource source)
{
	MemoryContext context = CurrentMemoryContext;
	Interval *offset = guc_malloc(LOG, sizeof(Interval));
	volatile bool valid = false;

	if (offset == NULL)
		return false;
	PG_TRY();
	{
		Interval *parsed =
			DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(*newval),
												  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

		*offset = *parsed;
		pfree(parsed);
		if (INTERVAL_NOT_FINITE(offset))
			GUC_check_errdetail("The interval must be finite.");
		else
		{
			(void) mc_add_offset(GetCurrentTimestamp(), offset);
			valid = true;
		}
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		GUC_check_errdetail("%s", error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();

	if (valid)
		*extra = offset;
	else
		guc_free(offset);
	return valid;
}

static void
assign_clock_offset(const char *newval, void *extra)
{
	mc_clock_offset = *(Interval *) extra;
}

/* What is sent, and from where. */
static void
define_scope(void)
{
	DefineCustomStringVariable("mailchimp_sync.databases",
							   "Databases in which a background worker keeps Mailchimp in step.",
							   "Needs mailchimp_sync in shared_preload_libraries.", &mc_databases,
							   "", PGC_SIGHUP, GUC_LIST_INPUT, check_databases, NULL, NULL);
	DefineCustomBoolVariable("mailchimp_sync.send", "Lets requests to Mailchimp leave this server.",
							 "Off, nothing is sent or read; changes are still collected.", &mc_send,
							 true, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("mailchimp_sync.instance",
							   "Tells this server from copies of its files.",
							   "A copy with another name sends nothing until mc_resume().",
							   &mc_instance, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("mailchimp_sync.clock_offset",
							   "An interval that is added wherever the time is read.",
							   "For tests and rehearsals.", &clock_offset_text, "0", PGC_SUSET, 0,
							   check_clock_offset, assign_clock_offset, NULL);
}

/* How hard one server may pull, and how long it waits. */
static void
define_limits(void)
{
	DefineCustomIntVariable("mailchimp_sync.max_connections",
							"Requests of one Mailchimp user that may be open at a time.",
							"Mailchimp allows 10, over all servers and other tools.",
							&mc_max_connections, 6, 1, 10, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.batch_size", "Contacts that one request carries.", NULL,
							&mc_batch_size, 500, 1, 500, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"mailchimp_sync.connect_timeout", "Longest wait for a connection to Mailchimp.", NULL,
		&mc_connect_timeout, 10 * 1000, 1, 130 * 1000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.request_timeout", "Longest wait for an answer.",
							"Mailchimp ends its side after 120 seconds, and no request counts "
							"as open for longer than 130 seconds.",
							&mc_request_timeout, 125 * 1000, 1, 130 * 1000, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.max_response",
							"Largest answer that is read, after decompression.", NULL,
							&mc_max_response, 64 * 1024, 1, MaxAllocSize / 1024, PGC_SUSET,
							GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"mailchimp_sync.poll_spread", "How much later than its time a campaign may be polled.",
		"Campaigns that would fall due together are spread over it; zero "
		"lets each be polled on time.",
		&mc_poll_spread, 30 * 1000, 0, 30 * 1000, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.expression_timeout",
							"Longest time that the expressions of a source may take for one batch.",
							NULL, &mc_expression_timeout, 5 * 1000, 1, INT_MAX, PGC_SUSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
}

/* What is kept, and for how long. */
static void
define_retention(void)
{
	DefineCustomIntVariable("mailchimp_sync.log_retention", "How long mc_request shows a request.",
							NULL, &mc_log_retention, 7 * SECS_PER_DAY, 1, INT_MAX, PGC_SUSET,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.activity_retention",
							"How long bounces, opens and clicks are kept per person.",
							"Zero keeps them for ever.", &mc_activity_retention, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("mailchimp_sync.signal_retention", "How long mc_signal shows a signal.",
							NULL, &mc_signal_retention, 30 * SECS_PER_DAY, 1, INT_MAX, PGC_SUSET,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("mailchimp_sync.store_ip",
							 "Keeps the IP address of an open or a click.", NULL, &mc_store_ip,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);
}

void
mc_define_settings(void)
{
	define_scope();
	define_limits();
	define_retention();
	MarkGUCPrefixReserved("mailchimp_sync");
}

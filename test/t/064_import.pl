# Campaigns that people make at Mailchimp are imported, kept up to date, polled like our own, and managed from here as far as that makes
# sense (R90, R112); our own are never taken for theirs. Which states there are is in sql/campaign_states.sql, when one is polled in 040_poll.pl.

use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use JSON::PP;
use McCrm;
use McTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $crm = McCrm->start('main', candidates => 5, audience => ", read_every => '10 years', every => '10 years'",
	demo => { lists => [ { name => 'Customers' }, { name => 'Others' } ] });

my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $others = $crm->{demo}{lists}[1]{id};
my $account = $crm->{demo}{account_id};
$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });
$crm->sync;
is($crm->status, 'in_sync 5', 'the audience is filled');

# What they make there: %campaign has its id at Mailchimp, by title.
my %there;
sub made
{
	my (@campaigns) = @_;
	my $made = $sim->post('/_sim/act', { account => $account, action => 'add_campaigns', campaigns => \@campaigns })->{campaigns};
	$there{ $campaigns[$_]{title} } = $made->[$_]{id} for 0 .. $#campaigns;
}
sub act { my ($title, $action, %more) = @_; $sim->post('/_sim/act', { campaign => $there{$title}, action => $action, %more }) }
sub event { my ($title, @events) = @_; $sim->post('/_sim/events', { campaign => $there{$title}, events => \@events }) }
sub ago { my ($days) = @_; return $node->query("SELECT to_char((mailchimp_sync.clock() - interval '$days days') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"')") }
sub pull { $crm->max(q{SELECT mc_pull_campaigns('main')}); $crm->run }
sub of { my ($title, $columns) = @_; return $crm->rita("SELECT $columns FROM mc_campaign WHERE mailchimp_id = '$there{$title}'") }
sub id { return of($_[0], 'campaign_id') }
sub later { $crm->later(@_); $crm->run }
sub refused
{
	my ($sql, $words, $name) = @_;
	like($node->error($sql, as => 'max'), $words, $name);
}

my $own = $crm->max(q{SELECT mc_create_campaign('Ours', 'people', 'Newsletter', 'Max', 'max@example.org')});
$crm->max("SELECT mc_add_recipients($own, 'candidate', ARRAY[1,2]), mc_send_campaign($own)");
$crm->run;
is($crm->rita("SELECT status, origin FROM mc_campaign"), 'sent|local', 'one of our own');
$crm->act($_, 'add') for qw(x y);
$sim->post('/_sim/act', { list => $others, email => $_, action => 'add' }) for 'c4@crm.test', 'z@crm.test';
made(
	{ title => 'Spring', list => $list, subject => 'It is spring', from_name => 'Mia', reply_to => 'mia@example.org', created => ago(41), sent => ago(40) },
	{ title => 'Last week', list => $list, created => ago(6), sent => ago(5) },
	{ title => 'Elsewhere', list => $others, created => ago(21), sent => ago(20) },
	{ title => 'Draft', list => $list, type => 'plaintext', created => ago(2) },
	{ title => 'Planned', list => $list, created => ago(1), at => $node->query(q{SELECT to_char(date_bin('15 minutes', now(), 'epoch') AT TIME ZONE 'UTC' + interval '4 days', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')}) },
	{ title => 'Feed', list => $list, type => 'rss', created => ago(300), sent => ago(3), status => 'sending' },
	{ title => 'Stopped', list => $list, created => ago(100), status => 'canceled' },
	{ title => '', subject => 'Nowhere', created => ago(8) });
event('Spring', { email => 'c1@crm.test', action => 'open', at => ago(39) }, { email => 'c1@crm.test', action => 'open', at => ago(38) },
	{ email => 'c2@crm.test', action => 'click', url => 'https://www.example.org/', at => ago(39) },
	{ email => 'x@crm.test', action => 'open', at => ago(39) }, { email => 'y@crm.test', action => 'unsubscribe', at => ago(39) },
	{ email => 'c3@crm.test', action => 'unsubscribe', reason => 'too many', at => ago(39) });
event('Elsewhere', { email => 'c4@crm.test', action => 'open', at => ago(19) }, { email => 'z@crm.test', action => 'soft', at => ago(19) },
	{ email => 'c4@crm.test', action => 'unsubscribe', reason => 'too many', at => ago(18) });
$crm->act('c3', 'resubscribe');
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# R90: they are imported, from when somebody asks for it
# -----------------------------------------------------------------------------------------------------------------

$crm->run;
is($crm->requests, '', 'nothing is asked before that');
refused(q{SELECT mc_pull_campaigns('mian')}, qr/connection "mian" does not exist.*HINT:  Perhaps you meant "main"/s, 'a connection that does not exist');
like($node->error(q{SELECT mc_pull_campaigns('main')}, as => 'rita'), qr/permission denied/, 'it is not for readers');
pull();
is($crm->rita("SELECT name, type, status, mailchimp_status, audience, list_id = '$list' AS here, recipients, emails_sent FROM mc_campaign
	WHERE origin = 'imported' ORDER BY created_at"), join("\n", 'Feed|rss|sending|sending|people|t|7|7', 'Stopped|regular|canceled|canceled|people|t|6|0',
	'Spring|regular|sent|sent|people|t|7|7', 'Elsewhere|regular|sent|sent||f|2|2', 'Nowhere|regular|prepared|save|||0|0',
	'Last week|regular|sent|sent|people|t|7|7', 'Draft|plaintext|prepared|save|people|t|6|0', 'Planned|regular|scheduled|schedule|people|t|6|0'),
	'R90: title, type, status, and the list with its audience if it has one');

is($crm->rita("SELECT count(*) FROM mc_campaign WHERE origin = 'imported'"), 8, 'and nothing of ours is among them');
is(of('Spring', "subject, from_name, from_email, archive_url, now() - created_at BETWEEN '40 days 23 hours' AND '41 days 1 hour', now() - sent_at BETWEEN '39 days 23 hours' AND '40 days 1 hour', skipped, edit_url"),
	"It is spring|Mia|mia\@example.org|http://eepurl.test/$there{Spring}|t|t|0|", 'R90: when it was made and sent, its page, its sender');
is(of('Planned', "scheduled_for > now() + interval '3 days', sent_at IS NULL, edit_url LIKE 'https://us1.admin.mailchimp.com/campaigns/edit%'"), 't|t|t', 'one that will be sent');
is($crm->rita("SELECT name, subject FROM mc_campaign WHERE subject = 'Nowhere'"), 'Nowhere|Nowhere', 'without a title it has its subject\'s name');

# -----------------------------------------------------------------------------------------------------------------
# R112: looked at like one's own
# -----------------------------------------------------------------------------------------------------------------

my ($spring, $elsewhere) = (id('Spring'), id('Elsewhere'));
is($crm->rita("SELECT type, contact_key, email, count(*) FROM mc_activity WHERE campaign_id = $spring GROUP BY 1, 2, 3 ORDER BY 3, 1"),
	join("\n", 'opened|1|c1@crm.test|2', 'clicked|2|c2@crm.test|1', 'unsubscribed|3|c3@crm.test|1', 'opened||x@crm.test|1', 'unsubscribed||y@crm.test|1'),
	'R112: who did what with it, and who that is');
is($crm->rita("SELECT source, CASE WHEN source IS NOT NULL THEN contact_key END, email, status FROM mc_campaign_recipient WHERE campaign_id = $spring ORDER BY email"),
	join("\n", 'candidate|1|c1@crm.test|opened', 'candidate|2|c2@crm.test|clicked', 'candidate|3|c3@crm.test|unsubscribed', '||x@crm.test|opened', '||y@crm.test|unsubscribed'),
	'R112: they are its recipients');
is($crm->rita("SELECT contact_key, email, type FROM mc_activity WHERE campaign_id = $elsewhere ORDER BY 2, 3"), "4|c4\@crm.test|opened\n4|c4\@crm.test|unsubscribed\n|z\@crm.test|bounced",
	'of a list without an audience, too: who has the address');
is($crm->rita("SELECT emails_sent, recipients, total_opened, unique_opened, total_clicked, unsubscribed, recorded_opened, note FROM mc_report WHERE campaign_id = $spring"),
	'7|7|3|2|1|2|3|', 'R112: its figures');
ok($crm->rita("SELECT mc_report_html($spring)") =~ m{<title>Spring</title>.*>Delivered<.*?>7<}s && $crm->rita("SELECT mc_report_html($spring)") =~ m{http://eepurl\.test/$there{Spring}"}, 'R112: its page');
ok($crm->rita('SELECT mc_reports_html()') =~ /Last week.*Elsewhere.*Spring/s, 'R112: the overview has it');
is($crm->rita("SELECT opens FROM mc_report_openers($spring) WHERE email = 'c1\@crm.test'"), 2, 'R112: drill-downs');
is($crm->rita('SELECT name FROM mc_poll_schedule WHERE campaign_id <> 1 ORDER BY name'), "Draft\nElsewhere\nFeed\nLast week\nNowhere\nPlanned\nSpring", 'R112: polled like our own');
is($crm->rita(q{SELECT name, next_poll_at - last_polled_at FROM mc_poll_schedule WHERE name IN ('Draft', 'Last week', 'Elsewhere', 'Spring') ORDER BY name}),
	"Draft|03:00:00\nElsewhere|12:00:00\nLast week|03:00:00\nSpring|1 day", 'R112: in the tiers of their age');

# Who left by them is known here; what is old is no news.
is($crm->rita(q{SELECT contact_key, email, reason FROM mc_group_member ORDER BY email}), "4|c4\@crm.test|too many\n|y\@crm.test|None given",
	'R112: who left by it is in the opt-out group, but whom Mailchimp has shown as subscribed since');
is($crm->rita(q{SELECT count(*) FROM mc_signal WHERE kind IN ('unsubscribed', 'campaign_sent') AND campaign_id <> 1}), 0, 'and nobody is told of what is old');

# -----------------------------------------------------------------------------------------------------------------
# R112: managed like one's own, but not sent past the opt-outs
# -----------------------------------------------------------------------------------------------------------------

my ($draft, $planned, $stopped) = map { id($_) } 'Draft', 'Planned', 'Stopped';
$crm->requests;
refused("SELECT $_", qr/55000.*campaign $draft: it is imported.*HINT:  It belongs to who made it at Mailchimp.*mc_copy_campaign\($draft\)/s, "$_ of an imported one")
  for "mc_send_campaign($draft)", "mc_prepare_campaign($draft)", "mc_schedule_campaign($draft, date_trunc('hour', now()) + interval '1 day')",
	qq{mc_alter_campaign($draft, '{"name": "x"}')}, "mc_add_recipients($draft, 'candidate', '{1}')", "mc_target_tags($draft, '{g1}')";
refused("INSERT INTO mc_campaign_recipient (campaign_id, source, contact_key) VALUES ($draft, 'candidate', '1')", qr/55000.*it is imported/s, 'by the view');
refused("SELECT mc_cancel_campaign($spring)", qr/cannot cancel campaign $spring: it is sent/, 'what is over is over');
refused("SELECT mc_copy_campaign($elsewhere)", qr/cannot be copied: its list has no audience.*HINT:  Make one of the same list/s, 'no copy without an audience');
is($crm->max("SELECT bool_and(ok), string_agg(heading, ' / ') FROM mc_check_campaign($draft)") =~ s/\|.*//r, 'f', 'mc_check_campaign asks Mailchimp what it lacks');
my $copy = $crm->max("SELECT mc_copy_campaign($draft)");
is($crm->rita("SELECT name, type, status, origin, recipients, audience FROM mc_campaign WHERE campaign_id = $copy"), 'Draft|regular|draft|local|0|people', 'R112: a copy is a draft of ours');
$crm->max("SELECT mc_test_campaign($draft, '{max\@example.org}')");
$crm->max("SELECT mc_unschedule_campaign($planned)");
$crm->run;
is(of('Planned', 'status, mailchimp_status, scheduled_for'), 'prepared||', 'R112: its schedule is taken back');
is($sim->get("/_sim/mails")->{tests}[0]{email}, 'max@example.org', 'R112: a test mail of it');
$crm->max("SELECT mc_delete_campaign($_)") for $planned, $stopped, $spring;
$crm->run;
is($crm->rita("SELECT string_agg(status, ' ') FROM mc_campaign WHERE campaign_id IN ($planned, $stopped, $spring)"), 'deleted deleted deleted', 'R112: deleted');
is(join(' ', sort map { $_->{title} } grep { $_->{deleted} } @{ $sim->get('/_sim/campaigns')->{campaigns} }), 'Planned Spring Stopped', 'at Mailchimp, too');
is($crm->rita("SELECT count(*) FROM mc_activity WHERE campaign_id = $spring"), 6, 'with its results kept here');

# -----------------------------------------------------------------------------------------------------------------
# R90: by itself once a day, and what has changed; what is gone, and comes back
# -----------------------------------------------------------------------------------------------------------------

act($_, 'edit', settings => { title => "$_ 2", subject_line => 'Subject 2' }) for 'Draft', 'Elsewhere';
later(86000);
is(of('Draft', 'name, subject'), 'Draft 2|Subject 2', 'a poll has seen that the draft has another title');
is(of('Elsewhere', 'name'), 'Elsewhere', 'the next walk is a day after the last one');
made({ title => 'New', list => $list });
later(400);
is(of('Elsewhere', 'name, subject'), 'Elsewhere 2|Subject 2', 'R90: daily; one that was sent has another title');
is(of('New', 'status'), 'prepared', 'R90: a new one is there');
act('New', 'send');
later(600);
is(of('New', 'status, emails_sent'), 'sent|5', 'a poll sees that it was sent');
is($crm->rita(q{SELECT kind, detail ->> 'name' FROM mc_signal WHERE campaign_id <> 1}), 'campaign_sent|New', 'which is news');
event('New', { email => 'c5@crm.test', action => 'unsubscribe' });
later(600);
is($crm->rita(q{SELECT kind, contact_key FROM mc_signal WHERE kind = 'unsubscribed'}), 'unsubscribed|5', 'and so is who leaves by it');
act('Draft', 'delete');
act('Last week', 'delete');
later(86400);
is($crm->rita("SELECT name, status, last_error FROM mc_campaign WHERE campaign_id IN ($draft, ${\id('Last week')}) ORDER BY 1"),
	"Draft 2|deleted|it was deleted at Mailchimp\nLast week|deleted|it was deleted at Mailchimp", 'deleted at Mailchimp');
act('Draft', 'undelete');
act('Last week', 'undelete');
pull();
is($crm->rita("SELECT name, status, last_error FROM mc_campaign WHERE campaign_id IN ($draft, ${\id('Last week')}) ORDER BY 1"), "Draft 2|prepared|\nLast week|sent|", 'and there again');

# -----------------------------------------------------------------------------------------------------------------
# Ours are ours: what is in doubt, and what people copied from it
# -----------------------------------------------------------------------------------------------------------------


my $doubt = $crm->max(q{SELECT mc_create_campaign('Doubt', 'people', 'Newsletter', 'Max', 'max@example.org')});
$crm->max("SELECT mc_add_recipients($doubt, 'candidate', ARRAY[1])");
$sim->hold(method => 'POST', path => '^/campaigns$', when => 'after');
$crm->max("SELECT mc_prepare_campaign($doubt)");
my $engine = $node->session(as => 'max');
McTest::begin($engine, 'CALL mc_run();');
$sim->wait_held;
$crm->max(q{SELECT mc_pull_campaigns('main')});
$node->wait_until(q{SELECT asked_at IS NULL AND walk_begun_at IS NULL FROM mailchimp_sync.import});
my ($orphan) = map { $_->{id} } grep { $_->{title} =~ /^Doubt/ } @{ $sim->get('/_sim/campaigns')->{campaigns} };
ok($orphan, 'one of ours is there, and nobody knows its number yet');
is($crm->rita("SELECT count(*) FROM mc_campaign WHERE mailchimp_id = '$orphan'"), 0, 'it is not imported');
$sim->release;
$engine->query('SELECT 1');
is($crm->rita("SELECT status, origin, mailchimp_id = '$orphan' FROM mc_campaign WHERE name LIKE 'Doubt%'"), 'prepared|local|t', 'it is ours');
$sim->post('/_sim/act', { campaign => $orphan, action => 'replicate' });
pull();
is($crm->rita("SELECT origin, status FROM mc_campaign WHERE name LIKE 'Doubt%' ORDER BY campaign_id"), "local|prepared\nimported|prepared", 'what people copied from it is theirs');

# -----------------------------------------------------------------------------------------------------------------
# Audiences that come later, erased persons
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(q{SELECT mc_create_audience('others', 'main', 'Others')});
is(of('Elsewhere', 'audience'), 'others', 'an audience of its list is its own from then on');
$crm->max("SELECT mc_copy_campaign($elsewhere)");
$crm->ann(q{SELECT mc_erase_contact('z@crm.test')});
$crm->run;
is($crm->rita("SELECT contact_key, email, type FROM mc_activity WHERE campaign_id = $elsewhere ORDER BY 2, 3"),
	"4|c4\@crm.test|opened\n4|c4\@crm.test|unsubscribed\n||bounced", 'N13: what an erased person did is nobody\'s');
is($node->query("SELECT count(*) FROM mailchimp_sync.recipient WHERE campaign_id = $elsewhere AND email LIKE 'z%'"), 0, 'N13: nor is the recipient');
is(join(' ', map { @{ $_->{forgotten} } } $sim->get("/_sim/lists/$others/members")), md5_hex('z@crm.test'), 'N13: erased in that list, too');
event('Elsewhere', { email => 'z@crm.test', action => 'open' });
$crm->max("SELECT mc_poll_campaign($elsewhere)");
$crm->run;
is($crm->rita("SELECT count(*) FROM mc_activity WHERE campaign_id = $elsewhere"), 3, 'N13: and nothing brings the person back');

# -----------------------------------------------------------------------------------------------------------------
# Who comes to be known later, in a list that gets an audience later
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/act', { list => $others, email => $_, action => 'add' }) for 'q@crm.test', 'r@crm.test';
made({ title => 'Before', list => $others, sent => ago(50) });
event('Before', map { { email => $_, action => 'open', at => ago(49) } } 'q@crm.test', 'r@crm.test');
pull();
my $before = id('Before');
sub opened_by { return $crm->rita("SELECT string_agg(concat_ws(' ', contact_key, email), ', ' ORDER BY email) FROM mc_activity WHERE campaign_id = $before") }
is(opened_by(), 'q@crm.test, r@crm.test', 'nobody has these addresses');
$crm->ann(q{INSERT INTO crm.candidate (id, first_name, email, owner_id) VALUES (7, 'Q', 'q@crm.test', 1); SELECT mc_add_audience_source('others', 'candidate', 'id = 7')});
$crm->sync('others');
later(86400);
is(opened_by(), '7 q@crm.test, r@crm.test', 'R112: a contact has one of them now');
is($crm->rita("SELECT source, contact_key, status FROM mc_campaign_recipient WHERE campaign_id = $before AND email = 'q\@crm.test'"), 'candidate|7|opened', 'and is the recipient');

# -----------------------------------------------------------------------------------------------------------------
# What goes wrong
# -----------------------------------------------------------------------------------------------------------------

$sim->fault(method => 'GET', path => '^/campaigns$', times => 2, fault => { type => 'status', status => 400, json => JSON::PP::true });
pull();
is($crm->rita(q{SELECT work, title, field, attempts, next_attempt_at > now() FROM mc_failure WHERE work = 'pull'}), 'pull|Bad Request|campaigns|1|t', 'a page that is refused');
$crm->max('SELECT mc_retry()');
$crm->run;
is($crm->rita(q{SELECT attempts FROM mc_failure WHERE work = 'pull'}), 2, 'tried again, and refused again');
later(600);
is($crm->rita(q{SELECT count(*) FROM mc_failure WHERE work = 'pull'}), 0, 'and again by itself');
$sim->fault(method => 'GET', path => '^/campaigns$', times => 1, fault => 'cut');
pull();
is($node->query(q{SELECT attempts, asked_at IS NULL FROM mailchimp_sync.import}), '1|f', 'a page that was cut off ends nothing');
later(100);
is($node->query(q{SELECT attempts, asked_at IS NULL FROM mailchimp_sync.import}), '0|t', 'it is asked for again');

# A page that sets out before a campaign is deleted here, and arrives after that, does not bring it back.
$sim->hold(method => 'GET', path => '^/campaigns$', when => 'after');
$crm->max(q{SELECT mc_pull_campaigns('main')});
McTest::begin($engine, 'CALL mc_run();');
my ($page) = $sim->wait_held;
my $new = id('New');
$crm->max("SELECT mc_delete_campaign($new)");
$node->wait_until("SELECT status = 'deleted' FROM mc_campaign WHERE campaign_id = $new");
$sim->release;
$engine->query('SELECT 1');
# not even until a poll finds that it is gone
is(of('New', 'status, next_poll_at, last_error'), 'deleted||', 'an old page does not bring back what was deleted since');

# Mailchimp does not want to delete it.
made({ title => 'Kept', list => $list });
pull();
my $kept = id('Kept');
$sim->fault(method => 'DELETE', path => "^/campaigns/$there{Kept}", fault => { type => 'status', status => 405, json => JSON::PP::true });
$crm->max("SELECT mc_delete_campaign($kept)");
$crm->run;
is($crm->rita("SELECT c.status, f.work, f.title FROM mc_campaign c LEFT JOIN mc_failure f USING (campaign_id) WHERE c.campaign_id = $kept"),
	'failed|campaign|Method Not Allowed', 'what Mailchimp refuses fails with its words');
pull();
is($crm->rita("SELECT c.status, f.work FROM mc_campaign c LEFT JOIN mc_failure f USING (campaign_id) WHERE c.campaign_id = $kept"), 'prepared|', 'and it is what it was');

# On the way to be deleted, it is sent by people.
made({ title => 'Late', list => $list });
pull();
$sim->hold(method => 'GET', path => "^/campaigns/$there{Late}", when => 'before');
$crm->max("SELECT mc_delete_campaign(${\id('Late')})");
McTest::begin($engine, 'CALL mc_run();');
$sim->wait_held;
act('Late', 'send');
$sim->release;
$engine->query('SELECT 1');
is(of('Late', 'status, last_error'), 'sent|Mailchimp was sending it already', 'what is sent meanwhile is not deleted, and is polled');
like(of('Late', 'next_poll_at > now() - interval \'1 minute\''), qr/t/, 'and polled');

# Another connection to the same account.
$node->query(sprintf q{SELECT mc_connect('second', 'demo-us1', endpoint => '%s')}, $sim->url);
$crm->max(q{SELECT mc_pull_campaigns('second')});
$crm->run;
is($crm->rita(q{SELECT count(*) FROM mc_campaign WHERE connection = 'second'}), 0, 'what the account has is here already');
$node->query(q{SELECT mc_disconnect('second')});

# -----------------------------------------------------------------------------------------------------------------
# How often, and off
# -----------------------------------------------------------------------------------------------------------------

refused(qq{SELECT mc_alter_connection('main', '{"campaigns_every": "1 minute"}')}, qr/permission denied|42501/, 'for admins');
for my $wrong (qw("soon" "10s" "-1day" 5 {}))
{
	like($node->error(qq{SELECT mc_alter_connection('main', '{"campaigns_every": $wrong}')}, as => 'ann'), qr/22023.*campaigns_every must be an interval/, "not every $wrong");
}
$crm->ann(qq{SELECT mc_alter_connection('main', '{"campaigns_every": "5 minutes"}')});
$crm->run;
$crm->journal;
sub walks { return join ' ', map { $_->{query}{since_create_time} ? 'new' : 'all' } grep { ($_->{route} // '') eq 'GET /campaigns' } $crm->journal }
made({ title => 'Quick', list => $list });
later(301);
is(walks(), 'new', 'every five minutes: only those that were made since');
is(of('Quick', 'status'), 'prepared', 'which are found');
later(86400);
is(walks(), 'all', 'all of them once a day');
$crm->ann(qq{SELECT mc_alter_connection('main', '{"campaigns_every": "0"}')});
later(2 * 86400);
is(walks(), '', 'never by itself');
pull();
is(walks(), 'all', 'when somebody asks');
$crm->ann(qq{SELECT mc_alter_connection('main', '{"campaigns_every": null}')});
later(86401);
is(walks(), 'all', 'and daily again');

# -----------------------------------------------------------------------------------------------------------------
# Ten thousand: bounded memory (rule 12), and what lies behind them comes one after the other
# -----------------------------------------------------------------------------------------------------------------

my $long = ago(400);
made(map { { title => "Old $_", created => $long, sent => $long } } 1 .. 10_000);
$sim->hold(method => 'GET', path => '^/campaigns$', times => -1, when => 'before');
$crm->max(q{SELECT mc_pull_campaigns('main')});
my $pid = $engine->query('SELECT pg_backend_pid()');
McTest::begin($engine, 'CALL mc_run();');
my @memory;
for my $number (1 .. 11)
{
	my ($held) = $sim->wait_held;
	push @memory, slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	$sim->release(n => $held->{n});
	$node->wait_until("SELECT page_offset = 1000 * $number OR walk_begun_at IS NULL FROM mailchimp_sync.import WHERE connection = 'main'");
}
$sim->release;
$engine->query('SELECT 1');
note "memory: @memory";
cmp_ok($memory[10] - $memory[3], '<', 6000, 'rule 12: the memory of the engine does not grow with the pages');
is($node->query(q{SELECT count(*) > 9900, max(next_poll_at) < mailchimp_sync.clock() + interval '18 hours' FROM mc_campaign WHERE name LIKE 'Old%' AND last_polled_at IS NULL}), 't|t', 'all of them are polled within a day, ten a minute');
is($crm->rita(q{SELECT count(*) FROM mc_campaign WHERE name LIKE 'Old%'}), 10000, 'and are here');

# -----------------------------------------------------------------------------------------------------------------
# Another account
# -----------------------------------------------------------------------------------------------------------------

$crm->journal;
$sim->post('/_sim/demo', { key => 'other-us1' });
$crm->ann(q{SELECT mc_connect('main', 'other-us1', switch_account => true)});
$crm->run;
is($crm->rita(q{SELECT string_agg(DISTINCT status, ' ') FROM mc_campaign WHERE origin = 'imported' AND next_poll_at IS NULL}), 'canceled deleted sent',
	'what was not sent there is not ours to look after any more');
is($crm->rita(q{SELECT count(*) FROM mc_campaign WHERE next_poll_at IS NOT NULL}), 0, 'nor polled');
is(walks(), '', 'the other account\'s campaigns are asked for when somebody says so');

$engine->quit;
$node->stop;
done_testing();

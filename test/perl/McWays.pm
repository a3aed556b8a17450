# The ways of a campaign that together make every kind of request there is, for tests of what can go wrong with one.
#
#   my $ways = McWays->new($crm);
#   my @kinds = $ways->kinds;                # goes all ways undisturbed: way, name, method, path (a pattern), nth, is_list
#   my @runs = map { $ways->run($_) } @kinds;           # a campaign each, still a draft
#   $sim->fault($runs[0]->{rule}->%*, fault => 'cut');  # at the one request of that kind that it makes
#   $ways->go(\@runs, until => sub { ... }); # all of them at the same time, as far as that or to their ends
#   is($crm->remains($_->{name}), $_->{end}) for @runs;
#
#   $ways->meet_faults(@kinds);                         # and asserts all that
#   my @held = $ways->hold(\@runs, 'before');          # all of them stop at the one request, before or after its effect
#   $sim->release(hold => $_) for @held;
#
# Requests that search a list are about no campaign: a rule for one hits whoever of those that are under way searches next.
# Contacts 1 to 3 get the mails, 4 stays a stranger, the others opt out one after the other.

package McWays;

use strict;
use warnings;
use McTest;
use List::Util qw(max min);
use Test::More;

my $mailed = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';
my %ends = (delete => 'campaigns 0 sends 0 segments 0');

# Our clock is not moved any further while a request that changes something is held, which could not land that late.
my $landing = 100;

# ---- the ways, step by step: what is done (a function, or SQL of mia's as one that returns it, of all in one go), the status
# that is waited for, or '*': until all runs are there

sub verb { my ($verb) = @_; return { sql => sub { "SELECT mc_${verb}_campaign($_[0]{campaign})" } } }
sub prepared { return (verb('prepare'), 'prepared') }
sub restored { return ('*', sub { $_[0]->super('SELECT mailchimp_sync.campaigns_restored()') }, '*') }

# somebody is in the segment whom we have not put in
sub stranger
{
	my ($action) = @_;
	return sub {
		my ($crm, $run) = @_;
		my ($segment) = $crm->segments($run->{name});
		$crm->{sim}->post('/_sim/act', { list => $crm->{list}, email => 'p4@example.org', tag => $segment->{name}, action => $action });
	};
}

my $opt_out = { sql => sub { "SELECT mc_opt_out('candidate', $_[0]{out})" } };
my $alter = { sql => sub { "SELECT mc_alter_campaign($_[0]{campaign}, '{\"subject\": \"Another\"}')" } };
sub sent_there { my ($crm, $run) = @_; $crm->{sim}->post('/_sim/act', { campaign => $crm->column($run->{campaign}, 'mailchimp_id'), action => 'send' }) }

# At one hour, all that are scheduled at the same time; it comes here and at Mailchimp.
sub schedule
{
	return { sql => sub {
		my ($run, $self) = @_;
		$self->{hour} //= $self->{crm}->quarter(21600);
		return "SELECT mc_schedule_campaign($run->{campaign}, to_timestamp($self->{hour}))";
	} };
}

sub hour
{
	my ($crm, $run, $self) = @_;
	$crm->both_at($self->{hour} + 1) if $self->{hour};
	$self->{hour} = undef;
}

my %ways = (
	send => [ verb('send'), 'sent' ],
	alter => [ prepared(), $alter, 'prepared', verb('send'), 'sent' ],
	remove => [ prepared(), $opt_out, verb('send'), 'sent' ],
	walk => [ prepared(), stranger('tag'), verb('send'), 'failed', stranger('untag'), verb('send'), 'sent' ],
	delete => [ prepared(), verb('delete'), 'deleted' ],
	schedule => [ schedule(), 'scheduled', '*', \&hour, 'sent' ],
	unschedule => [ schedule(), 'scheduled', verb('unschedule'), 'prepared', verb('send'), 'sent', '*' ],
	# who opts out makes that the schedule is taken back, and given anew
	correct => [ schedule(), 'scheduled', $opt_out, 'scheduled', '*', \&hour, 'sent' ],
	hold => [ { sql => sub { "SELECT mc_schedule_campaign($_[0]{campaign}, to_timestamp(60 + @{[$_[1]{crm}->now]}), true)" } },
		'sent', '*' ],		# before the hour of others, when it would be too late
	# as after mc_resume in a copy
	restored => [ prepared(), restored(), verb('send'), 'sent' ],
	adopted => [ prepared(), \&sent_there, restored(), verb('send'), 'sent' ]);
# those of one group can go at the same time: mc_resume concerns all campaigns, a walk and the hour of a schedule take long
my @groups = ([qw(send alter remove delete)], [qw(schedule unschedule correct hold)], ['walk'], [qw(restored adopted)]);

# What can happen to a request, and to the answer. What only looks has changed nothing, and is asked again whatever happened.
my %faults = (
	reads => [qw(reset_before garbage bare_429 500 hang)],
	writes => [qw(reset_before reset_after html_502 html_504_after cut garbage bare_429 500 hang hang_after)]);
my %looks = (
	'POST /lists/{list_id}/segments' => '^/lists/[^/]+/segments$',
	'POST /campaigns' => '^/campaigns$',
	map { $_ => '^/campaigns/[^/]+$' } 'POST /campaigns/{campaign_id}/actions/send', 'POST /campaigns/{campaign_id}/actions/schedule',
	'POST /campaigns/{campaign_id}/actions/unschedule');

sub new { my ($class, $crm) = @_; return bless { crm => $crm, outs => 4, names => 0, sql => [] }, $class }

sub run
{
	my ($self, $kind) = @_;
	my $run = { way => $kind->{way}, kind => $kind, name => ($kind->{name} ? 'c' . ++$self->{names} : "plain $kind->{way}"),
		end => $ends{ $kind->{way} } // $mailed };
	$run->{out} = ++$self->{outs} if $kind->{way} =~ /^(remove|correct)$/;
	$run->{steps} = [ @{ $ways{ $kind->{way} } } ];
	$run->{rule} = { map { $_ => $kind->{$_} } qw(method path nth) } if $kind->{name};
	$run->{rule}{about} = "^$run->{name} \\[" if $run->{rule} && !$kind->{is_list};
	return $run;
}

# ---- what can go wrong

sub faults_of { my ($self, $kind) = @_; return @{ $faults{ $kind->{method} eq 'GET' ? 'reads' : 'writes' } } }

# the request that looks what became of one that must not be repeated; none: it may be
sub look_of
{
	my ($self, $kind) = @_;
	my ($route) = split /,/, $kind->{name};
	return $looks{$route} ? { method => 'GET', path => $looks{$route} } : undef;
}

# Each of the kinds meets each of its faults, in a campaign of its own; nothing is sent twice, nothing is left over.
sub meet_faults
{
	my ($self, @kinds) = @_;
	my $crm = $self->{crm};
	my @pairs = map { my $kind = $_; map { [ $self->run($kind), $_ ] } $self->faults_of($kind) } @kinds;
	my %fault_of = map { $_->[0]{name} => $_->[1] } @pairs;
	for my $runs ($self->batches(20, map { $_->[0] } @pairs))
	{
		my $searches = 0;
		$self->fault($_, $fault_of{ $_->{name} }, $_->{kind}{is_list} ? ++$searches : undef) for @$runs;
		$self->go($runs);
		is($self->missed(@$runs), '', 'all of it happened: ' . join ', ', map { "$_->{kind}{name}: $_->{fault}" } @$runs);
		my $remains = $crm->all_remains(map { $_->{name} } @$runs);
		is($remains->{ $_->{name} }, $_->{end}, "N3: $_->{kind}{name}: $_->{fault}") for @$runs;
		$crm->{sim}->delete('/_sim/faults');
	}
}

# The fault happens to the run's request of its kind, of a search to the nth from now.
sub fault
{
	my ($self, $run, $fault, $nth) = @_;
	$run->{fault} = $fault;
	$run->{fault_id} = $self->{crm}{sim}->fault(%{ $run->{rule} }, $nth ? (nth => $nth) : (),
		fault => $fault eq '500' ? { type => 'status', status => 500, json => \1 } : $fault);
}

# what did not happen
sub missed
{
	my ($self, @runs) = @_;
	my %hits = map { $_->{id} => $_->{hits} } @{ $self->{crm}{sim}->get('/_sim/faults')->{faults} };
	return join ', ', map { "$_->{kind}{name}: $_->{fault}" } grep { !$hits{ $_->{fault_id} } } @runs;
}

# Searches first: one that was held for somebody else would keep him from his own request. Old doubts have no slots any more.
sub hold
{
	my ($self, $runs, $when) = @_;
	my $sim = $self->{crm}{sim};
	my (@holds, @going, $searches);

	$self->{crm}->later(140);
	for my $is_list (1, '')
	{
		my @more = grep { $_->{kind}{is_list} eq $is_list } @$runs or next;
		push @going, @more;
		push @holds, map { $sim->hold(%{ $_->{rule} }, $is_list ? (nth => ++$searches) : (), when => $when // $_->{when}) } @more;
		$self->go_until_held(\@going, scalar @going);
	}
	return @holds;
}

# The names of the two crashes.
my %crashes = ('the worker is killed' => 'kill_worker', 'the server stops at once' => 'stop_at_once');
sub crashes { return sort keys %crashes }

sub crash
{
	my ($self, $crash) = @_;
	my $how = $crashes{$crash};
	$self->{crm}{node}->$how;
}

# The requests that were under way then land, before our clock goes on.
sub land
{
	my ($self) = @_;
	my $sim = $self->{crm}{sim};
	my @held = map { $_->{n} } @{ $sim->get('/_sim/holds')->{held} };
	$sim->release;
	McTest::poll('what was held to land', sub {
		my %ended = map { $_->{n} => defined $_->{ended} } $sim->journal(since => min(@held) - 1);
		return !grep { !$ended{$_} } @held;
	}) if @held;
}

sub go_until_held
{
	my ($self, $runs, $count) = @_;
	$self->go($runs, until => sub { $count <= @{ $self->{crm}{sim}->get('/_sim/holds')->{held} } });
	my @held = @{ $self->{crm}{sim}->get('/_sim/holds')->{held} };
	die 'only ' . @held . " of $count requests are held" if @held < $count;
	return @held;
}

# A route says not what is done to a segment, nor that a schedule is taken back for somebody who opted out and given anew.
sub name_of
{
	my ($request, $way, $nth) = @_;
	return $request->{route} . (ref $request->{body} && $request->{body}{members_to_remove} ? ', removing' : '')
	  . ($way =~ /^(hold|correct)$/ && $request->{route} =~ m{/actions/} && !($way eq 'correct' && $nth == 1 && $request->{route} =~ m{/schedule$}) ? ", $way" : '');
}

sub kinds
{
	my ($self) = @_;
	my $sim = $self->{crm}{sim};
	my (@kinds, %known);

	for my $group (@groups)
	{
		my ($last) = sort { $b <=> $a } 0, map { $_->{n} } $sim->journal;
		my @runs = map { $self->run({ way => $_ }) } @$group;
		$self->go(\@runs);
		my @requests = grep { $_->{route} =~ m{ (/campaigns|/lists/\{list_id\}/segments|/reports/\{campaign_id\}/sent-to)} } $sim->journal(since => $last);
		for my $run (@runs)
		{
			my $remains = $self->{crm}->remains($run->{name});
			die "$run->{name}: $remains" if $remains ne $run->{end};
			my %count;
			for my $request (grep { !defined $_->{about} || $_->{about} =~ /^\Q$run->{name}\E \[/ } @requests)
			{
				my ($method, $path) = split / /, $request->{route} =~ s/\{[^}]*\}/[^\/]+/gr;
				my $nth = ++$count{ $request->{route} };
				my $name = name_of($request, $run->{way}, $nth);
				my $is_list = !defined $request->{about} || '';
				push @kinds, { way => $run->{way}, name => $name, method => $method, path => "^$path\$", nth => $is_list ? 1 : $nth,
					is_list => $is_list } unless $known{$name}++;
			}
		}
	}
	return @kinds;
}

# Runs, divided into those that can go at the same time, so many at once.
sub batches
{
	my ($self, $size, @runs) = @_;
	my @batches;
	for my $group (@groups)
	{
		my @left = grep { my $run = $_; grep { $_ eq $run->{way} } @$group } @runs;
		push @batches, [ splice @left, 0, $size ] while @left;
	}
	return @batches;
}

# ---- going

sub is_done { return !@{ $_[0]->{steps} } }

sub go
{
	my ($self, $runs, %options) = @_;
	my $until = $options{until} // sub { 0 };
	my $turns = 0;

	@$self{qw(seen rest idle)} = ('', '', 0);
	while (my @open = grep { !is_done($_) } @$runs)
	{
		# a campaign that asks the same again and again changes all the time, and would never end
		die 'they go round and round', "\n", $self->describe(@open) if ++$turns > 100 * @$runs;
		my $names = join ', ', map { $_->{name} } @open;
		my $news = eval { McTest::poll("one of $names to go on", sub { $until->() ? 'enough' : $self->look(@open) }, 0.02) };
		die $@, $self->describe(@open) if !defined $news;
		last if $news eq 'enough';
	}
	# their results are no concern of ours
	$self->{crm}->super("UPDATE mailchimp_sync.campaign SET next_poll_at = NULL WHERE status = 'sent' AND goal IS NULL");
}

sub describe
{
	my ($self, @runs) = @_;
	my %name_of = map { $_->{campaign} => "$_->{name} ($_->{way}, " . ($_->{kind}{name} // '') . ': ' . ($_->{fault} // '') . ", $_->{steps}[0])" } @runs;
	my $rows = $self->{crm}->super("SELECT campaign_id, concat_ws(', ', status, goal, step, cursor, begun_at, next_attempt_at, scheduled_for, told_for,
		attempts, refusals, last_error, mailchimp_status, mailchimp_sync.clock()) FROM mailchimp_sync.campaign WHERE campaign_id IN (" . join(',', keys %name_of) . ')');
	return join "\n", map { my ($id, $state) = split /\|/; "$name_of{$id}: $state" } split /\n/, $rows;
}

# One look at all of them; true: something has changed. Where they only wait for time to pass, it passes.
sub look
{
	my ($self, @open) = @_;
	my @drafts = grep { !defined $_->{campaign} } @open;

	$self->draft(@drafts) if @drafts;
	my %state = $self->states(@open) or return 0;
	my $seen = join ' ', map { "$_ @{ $state{$_} }{qw(status step cursor attempts)}" } sort keys %state;
	my $changed = $seen ne $self->{seen};
	$self->{idle} = $changed ? 0 : $self->{idle} + 1;
	$self->{seen} = $seen;
	$self->{rest} = join ' ', map { "$_ $state{$_}{status}" } grep { !$state{$_}{has_goal} } sort { $a <=> $b } keys %state;
	for my $run (@open)
	{
		my $state = $state{ $run->{campaign} };
		$changed = 1 if !$state->{has_goal} && $self->advance($run, \@open, $state->{status});
	}
	my @sql = splice @{ $self->{sql} };
	$self->{crm}->mia(join ";\n", @sql) if @sql;
	$self->pass_time(map { $state{ $_->{campaign} } } grep { ($_->{steps}[0] // '*') ne '*' } @open) unless $changed;
	return $changed;
}

sub draft
{
	my ($self, @runs) = @_;
	my %of = map { $_->{name} => $_ } @runs;
	my $made = $self->{crm}->mia(join ";\n", map {
		my $keys = '{1,2,3' . ($_->{out} ? ",$_->{out}" : '') . '}';
		"SELECT '$_->{name}', d.c, mc_add_recipients(d.c, 'candidate', '$keys')
			FROM (SELECT mc_create_campaign('$_->{name}', 'customers', 'Newsletter', 'Mia', 'mia\@example.org') AS c OFFSET 0) d" } @runs);
	for (split /\n/, $made)
	{
		my ($name, $id) = split /\|/;
		$of{$name}{campaign} = $id;
	}
}

# Does what is to be done up to the next thing that is waited for; true: something was.
sub advance
{
	my ($self, $run, $runs, $status) = @_;
	my $steps = $run->{steps};
	my $changed = 0;

	while (@$steps)
	{
		my $step = $steps->[0];
		if (ref $step eq 'CODE') { $step->($self->{crm}, $run, $self) }
		elsif (ref $step) { push @{ $self->{sql} }, $step->{sql}->($run, $self); $status = '' }
		elsif ($step eq '*') { last if grep { is_before($_, $run) } @$runs }
		else { last if $step ne $status }
		shift @$steps;
		$changed = 1;
	}
	return $changed;
}

# one that has as many or more places left where all meet, and is not at this one
sub is_before
{
	my ($other, $run) = @_;
	my ($theirs, $ours) = map { my $r = $_; scalar grep { !ref && $_ eq '*' } @{ $r->{steps} } } $other, $run;
	return $theirs > $ours || ($theirs == $ours && $other->{steps}[0] ne '*');
}

# Looks for a while within the server, where that is cheap: until one has got somewhere, or all rest, or nothing happens any more;
# () while it restarts.
sub states
{
	my ($self, @open) = @_;
	my $ids = join ',', map { $_->{campaign} } @open;
	# somebody who opted out and is in the segment still is something to do, too
	my $w = "(SELECT c.campaign_id, c.status, c.step, c.cursor, c.attempts, c.goal IS NOT NULL OR o.is_to_leave AS has_goal,
		EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.campaign_id = c.campaign_id AND f.doubt_at IS NULL) AS is_busy,
		greatest(CASE WHEN c.goal IS NOT NULL OR o.is_to_leave THEN c.next_attempt_at
				ELSE least(c.next_poll_at, CASE WHEN c.hold THEN c.scheduled_for END) END,
			(SELECT min(n.next_attempt_at) FROM mailchimp_sync.waiting_connection n)) AS at
		FROM mailchimp_sync.campaign c
		CROSS JOIN LATERAL (SELECT c.status IN ('prepared', 'scheduled') AND EXISTS (SELECT FROM mailchimp_sync.recipient r
			WHERE r.campaign_id = c.campaign_id AND r.status = 'skipped' AND r.segment_email IS NOT NULL) AS is_to_leave) o
		WHERE c.campaign_id IN ($ids)) w";
	my $rows = eval { $self->{crm}->super(<<"SQL") } // return ();
DO \$\$
DECLARE
	same	integer := 0;
	rest	text;
	rests	boolean;
	is_busy	boolean;
	seen	text;
	before	text;
BEGIN
	FOR i IN 1 .. 50 LOOP
		SELECT coalesce(string_agg(campaign_id || ' ' || status, ' ' ORDER BY campaign_id) FILTER (WHERE NOT has_goal), ''),
			bool_and(NOT has_goal OR coalesce(at > mailchimp_sync.clock(), false)),
			string_agg(concat_ws(' ', campaign_id, status, step, cursor, attempts, has_goal), ',' ORDER BY campaign_id),
			coalesce(bool_or(w.is_busy), false)
		INTO rest, rests, seen, is_busy FROM $w;
		same := CASE WHEN seen = before THEN same + 1 ELSE 0 END;
		EXIT WHEN rests OR rest <> '$self->{rest}' OR same >= 25 OR (same >= 8 AND NOT is_busy);
		before := seen;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
\$\$;
SELECT w.campaign_id, w.status, w.has_goal, w.step, w.cursor, w.attempts, w.is_busy,
	coalesce(ceil(extract(epoch FROM w.at - mailchimp_sync.clock())), 0),
	coalesce(ceil(extract(epoch FROM (SELECT min(f.ghost_until) FROM mailchimp_sync.inflight f) - mailchimp_sync.clock())), 40)
FROM $w
SQL
	my %state;
	for (split /\n/, $rows)
	{
		my ($id, $status, $has_goal, $step, $cursor, $attempts, $is_busy, $wait, $haunted) = split /\|/;
		$state{$id} = { status => $status, has_goal => $has_goal eq 't', step => $step, cursor => $cursor, attempts => $attempts,
			is_busy => $is_busy eq 't', wait => $wait, haunted => $haunted };
	}
	return %state;
}

# They wait for time to pass, or for slots that are haunted. As long as all of them, unless what is held could not land any more.
sub pass_time
{
	my ($self, @states) = @_;
	my $crm = $self->{crm};
	my @held = @{ $crm->{sim}->get('/_sim/holds')->{held} };
	my @resting = grep { !$_->{is_busy} } @states;
	my $lands = grep { $_->{method} ne 'GET' } @held;

	return if !@resting || @states - @resting > @held;
	my $wait = min map { $_->{wait} } @resting;
	return if $wait <= 0 && $self->{idle} < 3;
	$wait = $wait <= 0 ? $resting[0]{haunted} : $lands ? $wait : max map { $_->{wait} } @resting;
	$self->{moved} = $lands ? $self->{moved} + $wait : 0;
	die 'our clock would be moved too far while requests are held' if $self->{moved} > $landing;
	eval { $crm->later($wait) };
	$self->{idle} = 0;
}

1;

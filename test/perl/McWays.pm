# The ways of a campaign that together make every kind of request there is, for tests of what can go wrong with one.
#
#   my $ways = McWays->new($crm);
#   my @kinds = $ways->kinds;          # goes all ways undisturbed: way, method, path (a pattern), nth, name
#   $ways->go($kind, 'name');          # a campaign of that name goes the kind's way
#   is($crm->remains('name'), $ways->end($kind));
#
# Contacts 1 to 3 get the mails, 4 stays a stranger, the others opt out one after the other.

package McWays;

use strict;
use warnings;
use McTest;

my $mailed = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';
my %ends = (delete => 'campaigns 0 sends 0 segments 0');
my $outs = 4;

sub prepare
{
	my ($crm, $name, $keys) = @_;
	my $campaign = $crm->campaign($name, $keys // '{1,2,3}');
	$crm->mia("SELECT mc_prepare_campaign($campaign)");
	$crm->wait_status($campaign, 'prepared');
	return $campaign;
}

sub finish
{
	my ($crm, $campaign, $verb, $status) = @_;
	$crm->mia("SELECT mc_${verb}_campaign($campaign)");
	$crm->wait_status($campaign, $status);
}

my %ways = (
	send => sub { my ($crm, $name) = @_; finish($crm, $crm->campaign($name, '{1,2,3}'), 'send', 'sent') },
	alter => sub {
		my ($crm, $name) = @_;
		my $campaign = prepare($crm, $name);
		$crm->mia("SELECT mc_alter_campaign($campaign, '{\"subject\": \"Another\"}')");
		$crm->wait_status($campaign, 'prepared');
		finish($crm, $campaign, 'send', 'sent');
	},
	remove => sub {
		my ($crm, $name) = @_;
		$outs++;
		my $campaign = prepare($crm, $name, "{1,2,3,$outs}");
		$crm->mia("SELECT mc_opt_out('candidate', $outs)");
		finish($crm, $campaign, 'send', 'sent');
	},
	# somebody is in the segment whom we have not put in
	walk => sub {
		my ($crm, $name) = @_;
		my $campaign = prepare($crm, $name);
		my ($segment) = $crm->segments($name);
		my @tag = (list => $crm->{list}, email => 'p4@example.org', tag => $segment->{name});
		$crm->{sim}->post('/_sim/act', { @tag, action => 'tag' });
		finish($crm, $campaign, 'send', 'failed');
		$crm->{sim}->post('/_sim/act', { @tag, action => 'untag' });
		finish($crm, $campaign, 'send', 'sent');
	},
	delete => sub { my ($crm, $name) = @_; finish($crm, prepare($crm, $name), 'delete', 'deleted') },
	# as after mc_resume in a copy
	restored => sub {
		my ($crm, $name) = @_;
		my $campaign = prepare($crm, $name);
		$crm->super('SELECT mailchimp_sync.campaigns_restored()');
		finish($crm, $campaign, 'send', 'sent');
	},
	adopted => sub {
		my ($crm, $name) = @_;
		my $campaign = prepare($crm, $name);
		$crm->{sim}->post('/_sim/act', { campaign => $crm->column($campaign, 'mailchimp_id'), action => 'send' });
		$crm->super('SELECT mailchimp_sync.campaigns_restored()');
		finish($crm, $campaign, 'send', 'sent');
		McTest::poll('all to be adopted', sub {
			$crm->{meanwhile}->() if $crm->{meanwhile};
			return 1 if (eval { $crm->recipients($campaign) } // '') eq '1 sent, 2 sent, 3 sent';
			eval { $crm->later(5) };
			return 0;
		});
	});

sub new { my ($class, $crm) = @_; return bless { crm => $crm }, $class }

sub go { my ($self, $kind, $name) = @_; $ways{ $kind->{way} }->($self->{crm}, $name) }
sub end { my ($self, $kind) = @_; return $ends{ $kind->{way} } // $mailed }

# A route says not what is done to a segment.
sub name_of
{
	my ($request) = @_;
	return $request->{route} . (ref $request->{body} && $request->{body}{members_to_remove} ? ', removing' : '');
}

sub kinds
{
	my ($self) = @_;
	my $sim = $self->{crm}{sim};
	my (@kinds, %known);

	for my $way (qw(send alter remove walk delete restored adopted))
	{
		my ($last) = sort { $b <=> $a } 0, map { $_->{n} } $sim->journal;
		my %count;
		$self->go({ way => $way }, "plain $way");
		die "plain $way: " . $self->{crm}->remains("plain $way") if $self->{crm}->remains("plain $way") ne $self->end({ way => $way });
		for my $request (grep { $_->{route} =~ m{ (/campaigns|/lists/\{list_id\}/segments|/reports/\{campaign_id\}/sent-to)} } $sim->journal(since => $last))
		{
			my ($method, $path) = split / /, $request->{route} =~ s/\{[^}]*\}/[^\/]+/gr;
			my $name = name_of($request);
			my $nth = ++$count{ $request->{route} };
			push @kinds, { way => $way, name => $name, method => $method, path => "^$path\$", nth => $nth } unless $known{$name}++;
		}
	}
	return @kinds;
}

1;
